#!/usr/bin/env python3
# /// script
# requires-python = ">=3.8"
# dependencies = ["qrcode>=7"]
# ///
"""Print a QR code that puts codex_login on a phone and adds this server to it, its host keys pinned.

Run it at the server, as the account that is to sign in; it needs no root and reads public keys only. Scan the
code with the phone's camera: the app opens, fetches codex_login.py, shows what it would add, and asks. Nothing is
run that the code does not vouch for. Where codex_login is on the phone already, --installed makes a smaller code.

For another machine, give what this one knows of its keys; codex_login is to be on the phone already:
    ssh-keygen -F HOST | pair_phone.py --keys - --host HOST --user USER --app pythonista
"""

import argparse
import base64
import binascii
import getpass
import glob
import hashlib
import http.server
import ipaddress
import os
import re
import secrets
import shutil
import socket
import struct
import sys
import tempfile
import time
import zlib
from typing import NamedTuple
from urllib.parse import quote

SSH_FOLDER = '/etc/ssh'
INTERFACES_IPV6 = '/proc/net/if_inet6'

# The link's grammar, as parse_pairing_link of codex_login.py reads it:
#     codex-login:1/NAME/USER/HOST/PORT/KEY[/KEY…]     KEY: SHA-256 of a host key, base64url without padding
# Nothing in it means anything to a URL or a shell, so the apps' own links carry it as it is.
NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]{0,31}')
USER = re.compile(r'[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}')
HOST_LABEL = re.compile(r'[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?')
NUMERIC_LABEL = re.compile(r'[0-9]+|0[xX][0-9A-Fa-f]*')
MOST_KEYS = 6
CARRIERS = {
    'pythonista': 'pythonista3://codex_login.py?action=run&argv=--add&argv=',
    'a-shell': 'ashell:codex_login%20--add%20',
}
APP_NAMES = {'pythonista': 'Pythonista', 'a-shell': 'a-Shell'}

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'codex_login.py')
PLACES = {'pythonista': '~/Documents/codex_login.py', 'a-shell': '~/Documents/bin/codex_login'}
HANDED_OVER = '.cache/codex-login/phone.py'     # below the account's home folder, for scp
WEB_ADDRESS = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]+")
PHONE_HAS = 900                                 # seconds to come for the file

KEY_NAMES = {
    'ssh-ed25519': 'ED25519',
    'ecdsa-sha2-nistp256': 'ECDSA',
    'ecdsa-sha2-nistp384': 'ECDSA',
    'ecdsa-sha2-nistp521': 'ECDSA',
    'ssh-rsa': 'RSA',
}

# Colour numbers beyond the first 16 are no part of a terminal's theme: black and white on every one.
BLACK_ON_WHITE, PLAIN = '\x1b[38;5;16;48;5;231m', '\x1b[0m'
USUAL_COLUMNS = 80
PIXELS_PER_MODULE = 8

GET_QRCODE = """\
The code itself needs the Python package qrcode. Any of these gets it:
  uv run pair_phone.py
  sudo apt install python3-qrcode
  python3 -m venv .venv && .venv/bin/pip install qrcode
  (and from then on .venv/bin/python instead of python3)"""


class Problem(Exception):
    """A failure to be told to a person, and the exit status it has."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


class HostKey(NamedTuple):
    """A public host key: its type, its SHA-256 in base64url without padding, and itself."""

    type: str
    digest: str
    blob: str                                   # base64, as in a public key file

    def __str__(self):
        fingerprint = self.digest.replace('-', '+').replace('_', '/')
        return f'SHA256:{fingerprint} {KEY_NAMES[self.type]}'


class Server(NamedTuple):
    """What the phone is to know."""

    name: str
    user: str
    host: str
    port: int
    keys: list

    def __str__(self):
        fields = ('codex-login:1', self.name, self.user, self.host, str(self.port))
        return '/'.join(fields + tuple(key.digest for key in self.keys))

    def link(self, app):
        """The link that adds this server in an app."""
        return CARRIERS[app] + str(self)


def main(argv=None):
    """Run the command; its exit status."""
    try:
        status = pair(parse_arguments(argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:                     # | head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Problem as problem:
        print(f'pair_phone: {problem}', file=sys.stderr)
        return problem.status
    except (KeyboardInterrupt, EOFError):
        print(file=sys.stderr)
        return 130


def parse_arguments(argv):
    """The command line, every value checked."""
    summary, _, details = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(description=summary, epilog=details,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--app', choices=CARRIERS, help='the app on the phone; on a terminal it is asked for')
    parser.add_argument('--host', type=host, help='the name or address by which the phone reaches the server')
    parser.add_argument('--port', type=port, help="sshd's port, as the phone reaches it")
    parser.add_argument('--user', type=matching(USER), help='the account at the server; your own by default')
    parser.add_argument('--name', type=matching(NAME), help="the server's name on the phone")
    parser.add_argument('--keys', metavar='FILE',
                        help="another machine's public host keys or known_hosts lines, - for standard input")
    parser.add_argument('--installed', action='store_true',
                        help='codex_login is on the phone already: a smaller code, which adds the server only')
    parser.add_argument('--from', metavar='URL', dest='source', type=matching(WEB_ADDRESS),
                        help='where Pythonista fetches this very codex_login.py, instead of from this command')
    parser.add_argument('--png', metavar='FILE', help='write the code as a picture, too')
    parser.add_argument('--plain', choices=('light', 'dark'),
                        help='draw without colour codes, for a terminal with a light or a dark background')
    arguments = parser.parse_args(argv)
    if arguments.keys and not arguments.host:
        parser.error('--keys describes another machine: give its --host')
    if arguments.source and (arguments.app == 'a-shell' or arguments.installed):
        parser.error('--from is for the first code of Pythonista; a-Shell fetches the file from this server')
    arguments.installed = arguments.installed or bool(arguments.keys)
    return arguments


def pair(arguments):
    """Say what the link adds, and show it as text and as a code."""
    qrcode = import_qrcode()
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if arguments.png and not arguments.app and not at_terminal:
        raise Problem('--png needs --app pythonista or --app a-shell', 2)
    server = describe_server(arguments, at_terminal)
    print(summary_of(server))
    for app in CARRIERS:
        print(f'\nThe link for {APP_NAMES[app]}:\n{server.link(app)}')
    print()
    if not qrcode:
        print(GET_QRCODE, file=sys.stderr)
        return 1 if arguments.app or arguments.png else 0
    app = arguments.app or at_terminal and choose_app()
    if not app:
        print('For the code, add --app pythonista or --app a-shell.')
        return 0
    if arguments.installed:
        offer(qrcode, server.link(app), arguments)
    elif app == 'a-shell':
        hand_over(server)
        print(BY_SCP)
        offer(qrcode, by_scp(server), arguments)
    elif arguments.source:
        print(BY_ADDRESS.format(address=arguments.source, digest=sha256(script())))
        offer(qrcode, by_address(arguments.source, script(), go_on(server, app)), arguments)
    else:
        first = first_run(server, app)
        with Door(server.host, first) as door:
            print(BY_ADDRESS.format(address=door.address, digest=sha256(first)))
            offer(qrcode, by_address(door.address, first, 'exec(b)'), arguments)
            print('It is fetched from here: leave this command running until then …', flush=True)
            door.wait()
            print('The phone has it. Go on there.')
    return 0


def offer(qrcode, text, arguments):
    """Show a text as a code; write the picture that was asked for."""
    modules = code_modules(qrcode, text)
    if arguments.png:
        write_file(arguments.png, png(modules))
        print(f'Written: {arguments.png}\n')
    show_code(modules, arguments.plain)


def import_qrcode():
    """The module qrcode, or None where it is missing."""
    try:
        import qrcode
    except ImportError:
        return None
    return qrcode


# What the phone is to know ------------------------------------------------------------------------


def describe_server(arguments, at_terminal):
    """The Server that the command line names, or that this machine is."""
    if arguments.keys:
        return Server(arguments.name or name_from(arguments.host),
                      arguments.user or own_user(), arguments.host, arguments.port or 22,
                      keys_of([arguments.keys]))
    return Server(arguments.name or name_from(socket.gethostname()),
                  arguments.user or own_user(),
                  arguments.host or own_host(at_terminal),
                  arguments.port or own_port(),
                  keys_of(host_key_files()))


def host(text):
    """A host name or address in the one spelling that the phone accepts."""
    text = text[1:-1] if text.startswith('[') and text.endswith(']') else text
    labels = text.split('.')
    if ':' in text or NUMERIC_LABEL.fullmatch(labels[-1]):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} is no IP address') from None
        if '%' in text or address.is_unspecified or address.is_multicast:
            raise argparse.ArgumentTypeError(f'{text!r} is no address that a phone can connect to')
        return str(address)
    if len(text) > 253 or not all(map(HOST_LABEL.fullmatch, labels)):
        raise argparse.ArgumentTypeError(f'{text!r} is no host name (international ones: in the xn-- form)')
    return text.lower()


def port(text):
    """A port number."""
    if not re.fullmatch(r'[1-9][0-9]{0,4}', text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'{text!r} is no port: a number from 1 to 65535')
    return int(text)


def matching(pattern):
    """An argument type: text that the pattern matches."""
    def check(text):
        if not pattern.fullmatch(text):
            raise argparse.ArgumentTypeError(f'{text!r} is too long or has characters no link carries')
        return text
    return check


def name_from(host_name):
    """A name for the phone's list: a host name's first label, or an address, in the grammar's characters."""
    first, *others = host_name.split('.')
    name = host_name if others and NUMERIC_LABEL.fullmatch(others[-1]) else first
    return re.sub(r'[^A-Za-z0-9_-]', '-', name).lstrip('-_')[:32] or 'server'


def own_user():
    """The account that runs this, also behind sudo."""
    user = os.environ.get('SUDO_USER') or getpass.getuser()
    if not USER.fullmatch(user):
        raise Problem(f'your user name {user!r} cannot stand in a link: give --user', 2)
    return user


def own_host(at_terminal):
    """The address that the person's own connection used, else the machine's; asks if there are several."""
    connected = reachable([ssh_connection()[0]])
    if connected:
        return connected[0]
    addresses = own_addresses()
    if len(addresses) == 1:
        return addresses[0]
    if at_terminal:
        return choose_host(addresses)
    raise Problem('which address does the phone use? Give --host'
                  + (f': {", ".join(addresses)}, or a name' if addresses else ''), 2)


def own_port():
    """sshd's port: the one the person's own connection used, else the configured one."""
    candidates = [ssh_connection()[1]] + [value for keyword, value in sshd_settings() if keyword == 'port']
    for candidate in candidates:
        try:
            return port(candidate)
        except argparse.ArgumentTypeError:
            pass
    return 22


def ssh_connection():
    """The server's address and port of the SSH connection this runs in; empty strings outside one."""
    fields = os.environ.get('SSH_CONNECTION', '').split()
    return (fields[2], fields[3]) if len(fields) == 4 else ('', '')


def own_addresses():
    """The machine's addresses that a phone could use, likeliest first. No packet is sent to find them."""
    return reachable([route_source(socket.AF_INET, '192.0.2.1')] + interface_ipv4()
                     + interface_ipv6() + [route_source(socket.AF_INET6, '2001:db8::1')])


def reachable(addresses):
    """Those of the addresses that can be reached from another machine, each once."""
    found = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        address = getattr(address, 'ipv4_mapped', None) or address
        if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
            continue
        found.append(str(address))
    return list(dict.fromkeys(found))


def route_source(family, destination):
    """The address this machine would send from: connecting a UDP socket only looks the route up."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((destination, 9))
            return probe.getsockname()[0]
    except OSError:
        return ''


def interface_ipv4():
    """The first IPv4 address of each network interface, on Linux."""
    if sys.platform != 'linux':
        return []
    import fcntl
    siocgifaddr, addresses = 0x8915, []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, interface in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, siocgifaddr, struct.pack('256s', interface.encode()))
            except OSError:
                continue
            addresses.append(socket.inet_ntoa(answer[20:24]))
    return addresses


def interface_ipv6():
    """The lasting IPv6 addresses of the network interfaces, on Linux."""
    temporary_deprecated_or_tentative = 0x01 | 0x20 | 0x40
    addresses = []
    for line in read_text(INTERFACES_IPV6).splitlines():
        digits, _, _, _, flags, _ = line.split()
        if not int(flags, 16) & temporary_deprecated_or_tentative:
            addresses.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    return addresses


# sshd's public side -------------------------------------------------------------------------------


def sshd_settings(path=None, depth=16):
    """(keyword, value) of each line of sshd's configuration, as far as this account may read it."""
    for line in read_text(path or os.path.join(SSH_FOLDER, 'sshd_config')).splitlines():
        words = line.replace('=', ' ', 1).split()
        if len(words) < 2 or words[0].startswith('#'):
            continue
        keyword, values = words[0].lower(), [word.strip('"') for word in words[1:]]
        if keyword != 'include':
            yield keyword, values[0]
        elif depth:
            for pattern in values:
                for included in sorted(glob.glob(os.path.join(SSH_FOLDER, pattern))):
                    yield from sshd_settings(included, depth - 1)


def host_key_files():
    """The files of the public host keys that sshd has; a private key is never opened."""
    configured = [value for keyword, value in sshd_settings() if keyword == 'hostkey']
    if configured:
        return [path if path.endswith('.pub') else path + '.pub' for path in configured]
    return sorted(glob.glob(os.path.join(SSH_FOLDER, 'ssh_host_*_key.pub')))


def keys_of(paths):
    """The host keys that files hold, in the order of KEY_NAMES."""
    texts = (sys.stdin.read() if path == '-' else read_text(path) for path in paths)
    found = {key for text in texts for key in public_keys(text)}
    if not found:
        raise Problem(f'no public host key found in {" ".join(paths) or SSH_FOLDER}; --keys FILE gives them')
    return sorted(found, key=lambda key: (list(KEY_NAMES).index(key.type), key.digest))[:MOST_KEYS]


def public_keys(text):
    """The host keys on the lines of a public key file, or of known_hosts."""
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith('#'):
            continue
        # known_hosts has the host first. A line that is marked, as @revoked, has its key later still, and is
        # passed over like any other.
        words = words if words[0] in KEY_NAMES else words[1:]
        if len(words) < 2 or words[0] not in KEY_NAMES:
            continue
        try:
            blob = base64.b64decode(words[1], validate=True)
        except (binascii.Error, ValueError):
            continue
        label = words[0].encode()
        if blob.startswith(struct.pack('>I', len(label)) + label):
            digest = base64.urlsafe_b64encode(hashlib.sha256(blob).digest())
            yield HostKey(words[0], digest.decode().rstrip('='), words[1])


def read_text(path):
    """The text of a file; empty where there is none, or none that this account may read."""
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return file.read()
    except OSError:
        return ''


# The script, for a phone that has it not yet ------------------------------------------------------

BY_SCP = """\
Scanned, this code has a-Shell
  1  fetch codex_login from this server with scp, which asks for the password.
     The host key is in the code: another one is refused.
  2  put it into ~/Documents/bin, and install its SSH library with pip
  3  show this server, ask whether to add it, and sign in. The password is asked
     for once more, and then no more.
"""
BY_ADDRESS = """\
Scanned, this code has Pythonista ask whether to run it. After your yes, it
  1  fetches codex_login.py from
     {address}
     and goes no further unless what came has the SHA-256
     {digest}
  2  puts it into This iPhone (This iPad)
  3  shows this server, asks whether to add it, and signs in
"""

# What a phone runs once the script is there as `b`.
GO_ON = """\
import os,sys,runpy
p=os.path.expanduser('{place}')
os.makedirs(os.path.dirname(p),exist_ok=True)
open(p,'wb').write(b)
sys.argv=[p,{words}'--add','{server}']
runpy.run_path(p,None,'__main__')"""
IF_RIGHT = """\
import requests,hashlib
try:b=requests.get('{address}',timeout=15).content
except OSError:b=b''
if hashlib.sha256(b).hexdigest()!='{digest}':raise SystemExit('The file that the code names did not come. Nothing was run.')
{then}"""
# The lines of one link are commands of a-Shell, run one after the other. By its name, the server needs no brackets.
SCP = """\
echo {name} {key.type} {key.blob} > ~/tmp/k
scp -P {port} -oHostName={host} -oUser={user} -oHostKeyAlias={name} -oUserKnownHostsFile=~/tmp/k \
-oStrictHostKeyChecking=yes {name}:{path} ~/tmp/first.py
python3 ~/tmp/first.py"""


def script():
    """The bytes of codex_login.py, which lies beside this file."""
    try:
        with open(SCRIPT, 'rb') as file:
            return file.read()
    except OSError as error:
        raise Problem(f'{SCRIPT} cannot be read ({error.strerror}): put it there, or use --installed') from None


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def go_on(server, app):
    """The program that puts `b` where an app has its scripts, and starts it with this server's link."""
    return GO_ON.format(place=PLACES[app], server=server, words="'--yes'," if app == 'a-shell' else '')


def first_run(server, app):
    """The program that a phone fetches and runs: the script, and what to do with it. As a file, it is gone then."""
    first = 'import os,sys\nos.remove(sys.argv[0])\n' if app == 'a-shell' else ''
    return f'{first}b={script()!r}\n{go_on(server, app)}\n'.encode()


def by_address(address, data, then):
    """The link that has Pythonista fetch `data`, and run `then` if it is that."""
    return 'pythonista3://?exec=' + quote(
        IF_RIGHT.format(address=address, digest=sha256(data), then=then), safe="/:'(),.=!?@*;~")


def by_scp(server):
    """The link that has a-Shell fetch what was handed over."""
    return 'ashell:' + quote(SCP.format(name=server.name, key=server.keys[0], port=server.port, host=server.host, user=server.user,
                                        path=HANDED_OVER), safe='/:=~@+')


def hand_over(server):
    """Put what a-Shell is to run into the account's home folder."""
    home = os.path.expanduser('~' if server.user == getpass.getuser() else f'~{server.user}')
    if home.startswith('~'):
        raise Problem(f'{server.user} has no account here: use --installed, where codex_login is on the phone already')
    path = os.path.join(home, HANDED_OVER)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    except OSError as error:
        raise Problem(f'{path} cannot be written: {error.strerror}; --installed goes without') from None
    write_file(path, first_run(server, 'a-shell'))
    if os.geteuid() == 0:                       # behind sudo
        owner = os.stat(home)
        for made in (os.path.dirname(path), path):
            os.chown(made, owner.st_uid, owner.st_gid)


class Door:
    """A port of this machine where one file can be had, once, by whoever knows its name."""

    def __init__(self, host_name, data):
        self.fetched, name = False, '/' + secrets.token_urlsafe(6)

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 15

            def do_GET(handler):
                if handler.path != name:
                    return handler.send_error(404)
                handler.send_response(200)
                handler.send_header('Content-Length', str(len(data)))
                handler.end_headers()
                handler.wfile.write(data)
                self.fetched = True

            def log_message(handler, *words):
                pass

        self._server = http.server.HTTPServer(('', 0), Handler, bind_and_activate=False)
        self._server.socket.close()
        both = socket.has_dualstack_ipv6()
        self._server.socket = socket.create_server(
            ('', 0), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
        self._server.timeout = 1
        self._server.handle_error = lambda *visitor: None       # one who leaves in the middle
        self._port = self._server.socket.getsockname()[1]
        shown = f'[{host_name}]' if ':' in host_name else host_name
        self.address = f'http://{shown}:{self._port}{name}'

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self._server.server_close()

    def wait(self):
        """Until the file was fetched."""
        end = time.monotonic() + PHONE_HAS
        while not self.fetched:
            self._server.handle_request()
            if time.monotonic() > end:
                raise Problem(f'nobody fetched it. Can the phone reach port {self._port} of this machine? Else use --from '
                              'URL, or bring codex_login.py to the phone with the Files app, and use --installed')


# The person ---------------------------------------------------------------------------------------


def summary_of(server):
    """What the link contains, and what it means to have it."""
    lines = ['The link adds this server to codex_login on a phone:', f'  name     {server.name}',
             f'  user     {server.user}', f'  address  {server.host}', f'  port     {server.port}',
             '  host keys']
    lines += [f'    {key}' for key in server.keys]
    lines += ['It holds no secret: to sign in, the phone needs your password or a key as well.']
    try:
        everywhere = ipaddress.ip_address(server.host).is_global
    except ValueError:
        everywhere = True
    if not everywhere:
        lines += ['', f'{server.host} is reached from its own network or VPN only.',
                  'For a phone that is elsewhere, give a name or address that it can use: --host']
    return '\n'.join(lines)


def choose_host(addresses):
    """The address that the person picks or types."""
    print('Which address does the phone use?')
    for number, address in enumerate(addresses, 1):
        print(f'  {number}  {address}')
    while True:
        answer = input('Number, or another name or address: ').strip()
        if re.fullmatch('[0-9]{1,3}', answer):
            if 1 <= int(answer) <= len(addresses):
                return addresses[int(answer) - 1]
            continue
        try:
            return host(answer)
        except argparse.ArgumentTypeError as error:
            print(error)


def choose_app():
    """The app that the person picks."""
    apps = {'1': 'pythonista', '2': 'a-shell'}
    while True:
        answer = input('Which app is on the phone?  1 Pythonista  2 a-Shell: ').strip()
        if answer in apps:
            return apps[answer]


# The code -----------------------------------------------------------------------------------------


def code_modules(qrcode, text):
    """The code as rows of booleans, true for dark, with its quiet zone."""
    # A screen has no dirt or folds to correct, and a smaller code is easier to scan.
    code = qrcode.QRCode(error_correction=qrcode.constants.ERROR_CORRECT_L, border=4)
    code.add_data(text)
    code.make(fit=True)
    return code.get_matrix()


def show_code(modules, background):
    """Draw the code where it can be scanned; say what to do, also where it cannot."""
    columns, rows = USUAL_COLUMNS, 0
    if sys.stdout.isatty():
        columns, rows = shutil.get_terminal_size((columns, rows))
    if len(modules) > columns:
        raise Problem(f'the code is {len(modules)} columns wide, too wide for this window: make it wider,'
                      ' give a shorter --host, or use --png FILE')
    drawing = draw(modules, background)
    try:
        print(drawing)
    except UnicodeEncodeError:
        raise Problem('this terminal cannot show the code: set LC_ALL=C.UTF-8, or use --png FILE') from None
    print("Scan it with the phone's camera and tap the link.")
    needed = len(drawing.splitlines()) + 2
    if 0 < rows < needed:
        print(f'If its top is out of sight: make the window {needed} rows high, or use --png.')


def draw(modules, background=None):
    """The code in half blocks, two rows of it a line; in colours of its own where no background is given."""
    rows = [list(row) for row in modules]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    inked = background != 'dark'  # on a dark background characters are light, so they draw the light modules
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2]):
        cells = ((top == inked, bottom == inked) for top, bottom in zip(upper, lower))
        line = ''.join(' ▄▀█'[2 * top + bottom] for top, bottom in cells)
        lines.append(line if background else BLACK_ON_WHITE + line + PLAIN)
    return '\n'.join(lines)


def png(modules):
    """The code as a greyscale PNG."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    side = len(modules) * PIXELS_PER_MODULE
    lines = []
    for row in modules:
        pixels = b''.join((b'\x00' if dark else b'\xff') * PIXELS_PER_MODULE for dark in row)
        lines += [b'\x00' + pixels] * PIXELS_PER_MODULE  # each line begins with its filter: none
    header = struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b''.join(lines)))
            + chunk(b'IEND', b''))


def write_file(path, data):
    """Write a file beside its place, then move it there: it is whole or not there."""
    beside = None
    try:
        handle, beside = tempfile.mkstemp(prefix='.pair-phone-', dir=os.path.dirname(os.path.abspath(path)))
        with open(handle, 'wb') as file:
            file.write(data)
        os.replace(beside, path)
    except OSError as error:
        if beside:
            os.unlink(beside)
        raise Problem(f'{path} cannot be written: {error.strerror}') from None


if __name__ == '__main__':
    sys.exit(main())
