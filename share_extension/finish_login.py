#!/usr/bin/env python3
"""Finish a sign-in from Pythonista's share sheet: hand over the page that Safari could not open.

Safari: share the failed page (http://localhost:1455/…) and pick this script. Run by hand, it takes the address from the
clipboard. It lies beside codex_login.py, or in share_extension/ next to scripts/.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def shared_address():
    """The address that the share sheet was opened with, '' where the script was run by hand."""
    try:
        import appex
    except ImportError:
        return ''
    if not appex.is_running_extension():
        return ''
    shared = [appex.get_url(), *(appex.get_urls() or []), appex.get_text()]
    return next((str(item).strip() for item in shared if item), '')


def main():
    before = list(sys.path)
    sys.path[:0] = [HERE, os.path.join(HERE, os.pardir, 'scripts')]
    try:
        try:
            import codex_login
        except ImportError:
            print('codex_login.py is missing.\nPut it into the same folder as this script.', file=sys.stderr)
            return 255
        address = shared_address()
        return codex_login.main(['--finish', address] if address else ['--finish'])
    finally:                    # the app lives on: its next script finds it as it was
        sys.path[:] = before
        sys.modules.pop('codex_login', None)


if __name__ == '__main__':
    sys.exit(main())
