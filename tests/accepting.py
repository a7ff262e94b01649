"""A listening socket of a test's own, whose connections are each served in a thread of their own."""

import contextlib
import socket
import threading


class Accepting:
    """Serves what connects to `self._listener` by `self._serve(sock)`, from `with` to its end."""

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()
