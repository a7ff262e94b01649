"""Programs that others wrote, and that sign people in: where they come from, and what is known of each.

    install(program)                        # into the cache, once; Missing says why it cannot be had
    with Sshd() as server, Issuers(server, program.hosts) as issuers:
        put(program, server)                # and then program.command is typed there

`python3 tests/real_programs.py` prints the table of scripts/README.md anew.
"""

import fcntl
import json
import shutil
import subprocess
import sys
from typing import NamedTuple

import environment
import lab

FOLDER = environment.CACHE / 'programs'
LIMIT = 240             # s for one installation


class Missing(Exception):
    """A program cannot be had on this machine; says why."""


WORKS = 'works'


class Program(NamedTuple):
    """One program.

    name        as people call it, and its command
    version     of the package
    source      'npm', 'pip' or 'apt', and the package there
    hosts       of its issuer, whose names the stub takes
    command     what is typed at the server
    files       texts in the account's home, by their names
    port        where it listens; 'none' where it shows a one-time code instead, or wants one back
    ssh         what comes of plain `ssh -t` and `ssh -L`, for somebody who watches what it prints: WORKS, or why not
    needs       what else there is to know of it
    end         words after which a person ends it; '' where it ends by itself
    asks        what it asks for the code that the page shows; '' where it takes a redirect
    """
    name: str
    version: str
    source: tuple
    hosts: tuple
    command: str
    files: dict = {}
    port: str = 'any'
    ssh: str = WORKS
    needs: str = ''
    end: str = ''
    asks: str = ''


GOOGLE = ('accounts.google.com', 'oauth2.googleapis.com', 'www.googleapis.com')
GOOGLE_CLIENT = json.dumps({'installed': {
    'client_id': 'stub', 'client_secret': 'stub', 'redirect_uris': ['http://localhost'],
    'auth_uri': 'https://accounts.google.com/o/oauth2/auth', 'token_uri': 'https://oauth2.googleapis.com/token'}})
MCP = 'mcp.example.test'
CLAUDE = ('claude.ai', 'claude.com', 'console.anthropic.com', 'platform.claude.com', 'api.anthropic.com')
GEMINI = json.dumps({'security': {'auth': {'selectedType': 'oauth-personal'}}})
NO_BROWSER = 'it ends: no browser there'
PYTHON_PACKAGES = ('google-auth-oauthlib[tool]==1.5.0', 'gcalcli==4.5.1', 'databricks-sdk==0.162.0', 'oauth2-cli-auth==2.0.0', 'msal==1.39.0')

DATABRICKS = '''\
from databricks.sdk.core import Config
print(bool(Config(host='https://dbc.example.test', auth_type='external-browser').authenticate()['Authorization']), flush=True)
'''
OAUTH2_CLI_AUTH = '''\
from oauth2_cli_auth import OAuth2ClientInfo, get_access_token_with_browser_open
client = OAuth2ClientInfo.from_oidc_endpoint('https://oidc.example.test/.well-known/openid-configuration', 'stub', ['openid'])
print(bool(get_access_token_with_browser_open(client)), flush=True)
'''
MSAL = '''\
import msal
app = msal.PublicClientApplication('04b07795-8ddb-461a-bbee-02f9e1bf7b46', authority='https://login.microsoftonline.com/organizations')
print(app.acquire_token_interactive(['https://management.core.windows.net//.default'], prompt='select_account').get('error', 'signed in'), flush=True)
'''

PROGRAMS = (
    Program('codex login', '0.169.0', ('npm', '@openai/codex'), ('auth.openai.com',), 'codex login', port='1455, 1457'),
    Program('codex mcp login', '0.169.0', ('npm', '@openai/codex'), (MCP,), 'codex mcp login stub',
            {'.codex/config.toml': f'[mcp_servers.stub]\nurl = "https://{MCP}/mcp"\n'}),
    Program('claude auth login', '2.1.100', ('npm', '@anthropic-ai/claude-code'), CLAUDE, 'claude auth login', ssh='a code is typed back'),
    Program('gemini', '0.61.0', ('npm', '@google/gemini-cli'), GOOGLE, 'gemini', {'.gemini/settings.json': GEMINI}, port='none',
            ssh='a code is typed back', asks='authorization code: ', needs='`-t`: it asks at a terminal'),
    Program('firebase login', '15.34.2', ('npm', 'firebase-tools'), (*GOOGLE, 'firebase.google.com', 'auth.firebase.tools'),
            'firebase login --reauth --interactive', port='9005', needs='`-t`, or `firebase login --reauth --interactive`: it asks first'),
    Program('gh auth login', '2.23.0', ('apt', 'gh'), ('github.com', 'api.github.com'), 'gh auth login -w -h github.com -p https',
            port='none', ssh='the code is typed by hand', needs='`-t`, or `gh auth login -w -h github.com -p https`: it asks first'),
    Program('wrangler login', '4.86.0', ('npm', 'wrangler'), ('dash.cloudflare.com', 'api.cloudflare.com'), 'wrangler login', port='8976'),
    Program('clasp login', '3.4.1', ('npm', '@google/clasp'), GOOGLE, 'clasp login'),
    Program('mcp-remote', '0.15.1', ('npm', 'mcp-remote'), (MCP,), f'mcp-remote https://{MCP}/mcp', port='3335 and up',
            end='Proxy established successfully', needs='it goes on as a proxy: Ctrl-C'),
    Program('rclone authorize', '1.60.1', ('apt', 'rclone'), GOOGLE, 'rclone authorize drive', port='53682'),
    Program('git-credential-oauth', '0.4.2', ('apt', 'git-credential-oauth'), ('gitlab.com',),
            r'printf "protocol=https\nhost=gitlab.com\n" | git-credential-oauth get', ssh=NO_BROWSER),
    Program('google-oauthlib-tool', '1.5.0', ('pip', 'google-auth-oauthlib'), GOOGLE,
            'google-oauthlib-tool --client-secrets client.json --scope openid --save --credentials saved.json',
            {'client.json': GOOGLE_CLIENT}, port='8080', ssh=NO_BROWSER),
    Program('gcalcli', '4.5.1', ('pip', 'gcalcli'), GOOGLE, 'gcalcli --client-id stub --client-secret stub init'),
    Program('databricks-sdk', '0.162.0', ('pip', 'databricks-sdk'), ('dbc.example.test',), 'python-of-programs databricks_login.py',
            {'databricks_login.py': DATABRICKS}, port='8020', ssh='no address is shown'),
    Program('oauth2-cli-auth', '2.0.0', ('pip', 'oauth2-cli-auth'), ('oidc.example.test',), 'python-of-programs oauth2_login.py',
            {'oauth2_login.py': OAUTH2_CLI_AUTH}, port='8080'),
    Program('az login', '1.39.0', ('pip', 'msal'), ('login.microsoftonline.com',), 'python-of-programs msal_login.py',
            {'msal_login.py': MSAL}, needs='tried: its library, msal, which shows the address; `az` does not'),
)


# --- How they get here --------------------------------------------------------------------------------------

def install(program):
    """The folder whose `bin` has the program. Raises Missing."""
    kind, package = program.source
    if package == lab.CODEX_PACKAGE:
        if not lab.find_codex():
            raise Missing(f'npm install -g {package}, or set CODEX_LOGIN_REAL_CODEX to its path')
        return None
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = FOLDER / (f'{kind}-{package}-{program.version}'.replace('/', '-').replace('@', '') if kind != 'pip' else 'python')
    with open(f'{folder}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready, wanted = folder / 'ready', repr((sys.version, PYTHON_PACKAGES)) if kind == 'pip' else program.version
        if not (ready.exists() and ready.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                {'npm': _from_npm, 'pip': _from_pip, 'apt': _from_apt}[kind](folder, package, program.version)
            except (OSError, subprocess.SubprocessError) as error:
                said = getattr(error, 'stderr', None) or str(error)
                raise Missing(f'{package} {program.version} is not to be had by {kind}: {said.strip()[-200:]}') from None
            ready.write_text(wanted)
    return folder


def _run(*command, **how):
    return subprocess.run(command, check=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **how)


def _from_npm(folder, package, version):
    _run('npm', 'install', '--prefix', folder, '--no-audit', '--no-fund', '--ignore-scripts', '--omit=optional',
         '--fetch-retries=1', '--fetch-timeout=30000', f'{package}@{version}')
    # What only compilers, debuggers and other platforms read is more than half of it.
    for path in [*folder.rglob('*.d.ts'), *folder.rglob('*.d.cts'), *folder.rglob('*.d.mts'), *folder.rglob('*.map')]:
        path.unlink()
    for unused in ('@anthropic-ai/claude-code/vendor', 'pglite-2', '@electric-sql'):
        shutil.rmtree(folder / 'node_modules' / unused, ignore_errors=True)
    if package == 'wrangler':       # it looks for what runs workers, and does not start without
        (folder / 'node_modules/workerd/lib/downloaded-@cloudflare-workerd-linux-64-workerd').touch()
    (folder / 'bin').symlink_to('node_modules/.bin')


def _from_pip(folder, package, version):
    _run(sys._base_executable, '-m', 'venv', folder)
    _run(folder / 'bin/python', '-m', 'pip', 'install', '--disable-pip-version-check', '--no-compile', '--retries=1', '--timeout=30',
         *PYTHON_PACKAGES)
    for unused in folder.glob('lib/*/site-packages/*'):
        if unused.name.startswith(('pip', 'setuptools')):
            shutil.rmtree(unused)
    for document in folder.glob('lib/*/site-packages/googleapiclient/discovery_cache/documents/*.json'):
        if not document.name.startswith('calendar.'):
            document.unlink()
    (folder / 'bin/python-of-programs').symlink_to('python')


def _from_apt(folder, package, version):
    folder.mkdir()
    try:
        _run('apt-get', '-o', 'APT::Sandbox::User=', 'download', package, cwd=folder)
    except subprocess.CalledProcessError:
        _run('apt-get', 'update')
        _run('apt-get', '-o', 'APT::Sandbox::User=', 'download', package, cwd=folder)
    archive = next(folder.glob('*.deb'))
    there = _run('dpkg-deb', '-f', archive, 'Version').stdout.strip()
    if not there.startswith(version):
        raise OSError(f'there is {there}')
    _run('dpkg-deb', '-x', archive, folder)
    archive.unlink()
    (folder / 'bin').symlink_to('usr/bin')


# --- At the server ------------------------------------------------------------------------------------------

def put(program, server):
    """Have an account at an Sshd find the program, with what it reads."""
    folder = install(program)
    if folder:
        server.environment['PATH'] = f'{folder}/bin:{server.base_environment()["PATH"]}'
    else:
        server.add_program('codex', f'#!/bin/sh\nexec {lab.find_codex()} "$@"\n')
    for name, text in program.files.items():
        (server.home / name).parent.mkdir(exist_ok=True)
        (server.home / name).write_text(text)


def table(programs=PROGRAMS):
    """The lines of scripts/README.md that say what is known of them."""
    lines = ['| program | version | through this script | plain `ssh -t`, `ssh -L` | its port | |', '|---|---|---|---|---|---|']
    for program in programs:
        outcome = 'the code is typed back' if program.asks else WORKS
        lines.append(f'| `{program.name}` | {program.version} | {outcome} | {program.ssh} | {program.port} | {program.needs} |')
    return lines


if __name__ == '__main__':
    print(*table(), sep='\n')
