"""asyncssh's server for the connection that is its standard input: an account's commands, forwards, a key or a password.

    asyncssh_server.py HOST-KEY AUTHORIZED-KEYS ACCOUNT [PASSWORD]
"""

import asyncio
import os
import pathlib
import pwd
import socket
import subprocess
import sys

import asyncssh

HOST_KEY, KEYS, ACCOUNT, PASSWORD = [*sys.argv[1:], None][:4]


class Server(asyncssh.SSHServer):
    def password_auth_supported(self):
        return PASSWORD is not None

    def validate_password(self, username, password):
        return password == PASSWORD

    def connection_requested(self, *_):
        return True

    def server_requested(self, *_):
        return True


async def run(process):
    account = pwd.getpwnam(ACCOUNT)
    child = subprocess.Popen(
        [account.pw_shell, '-c', process.command], cwd=account.pw_dir, start_new_session=True,
        env={**os.environ, 'HOME': account.pw_dir, 'USER': account.pw_name, 'SHELL': account.pw_shell},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    status = await asyncio.get_running_loop().run_in_executor(None, child.wait)
    await process.stdout.drain()
    process.exit(status if status >= 0 else 255)


async def main():
    # Empty, the list is no list to asyncssh.
    keys = KEYS if pathlib.Path(KEYS).read_text().strip() else None
    connection = await asyncssh.run_server(
        socket.socket(fileno=0), server_factory=Server, server_host_keys=[HOST_KEY], authorized_client_keys=keys,
        process_factory=run, encoding=None)
    await connection.wait_closed()


asyncio.run(main())
