"""What is printed as a cure is tried, as it was printed, in the place where it was printed."""

import os
import re
import shutil
import subprocess

import pytest
import standins
from harness import Browser, Script
from test_login import codex_login, failure
from test_pair_phone import needs, pair_phone
from test_phones import SCRIPT, bare_ashell, wheels  # noqa: F401 (fixtures)
from waiting import until


def sh(command, folder, **environment):
    """Run a command as a person pastes it; an outer virtual environment is none of theirs."""
    done = subprocess.run(['sh', '-c', command], cwd=folder, capture_output=True, text=True, timeout=300,
                          env={'PATH': standins.SYSTEM_PATH, 'HOME': str(folder), 'TMPDIR': str(folder), **environment})
    assert done.returncode == 0, done.stdout + done.stderr


def made(folder, command, package):
    """Run the printed command that makes a virtual environment with a package; its Python. Skips where there is no network."""
    try:
        sh(command, folder)
    except AssertionError as error:
        if 'No matching distribution' in str(error) or 'ensurepip is not available' in str(error):
            pytest.skip(f'{package} cannot be installed here: {str(error)[-300:]}')
        raise
    return folder / '.venv' / 'bin' / 'python'


VENV = r'python3 -m venv \S+ && \S+ install \w+'


def test_a_computer_without_the_library_gets_it_as_it_says(home, server, tmp_path):
    bare = tmp_path / 'bare'
    bare.mkdir()
    sh('python3 -m venv none', bare)
    destination = f'{server.user}@{server.address}:{server.port}'
    with Script(home, destination, json_events=False, python=bare / 'none' / 'bin' / 'python', plain=True) as script:
        assert script.wait() == 255 and 'The SSH library paramiko is not installed.' in script.stderr
        cure = re.search(VENV, script.stderr)[0]
    python = made(bare, cure, 'paramiko')
    with Script(home, destination, json_events=False, python=python, plain=True) as script:
        page = until(lambda: re.search(r'^https://\S+', script.stdout, re.MULTILINE), 'the address')[0]
        assert Browser(page).sign_in().status == 200 and script.wait() == 0


def test_a_server_without_qrcode_gets_it_as_it_says(tmp_path):
    made(tmp_path, re.search(VENV, pair_phone.GET_QRCODE)[0], 'qrcode')
    sh(f'.venv/bin/python {pair_phone.__file__} --host server.example --installed --app a-shell', tmp_path, PYTHONUTF8='1')


@pytest.mark.may_be_missing
def test_uv_brings_qrcode_along(tmp_path):
    uv = shutil.which('uv')
    if not uv:
        pytest.skip('uv is missing: pip install uv')
    assert '  uv run pair_phone.py\n' in pair_phone.GET_QRCODE
    sh(f'{uv} run --no-project pair_phone.py --host server.example --installed --app a-shell',
       os.path.dirname(pair_phone.__file__), HOME=os.environ['HOME'], PYTHONUTF8='1')


def test_a_shells_library_that_does_not_start_is_cured_as_it_says(bare_ashell, wheels):
    broken = bare_ashell.folder / 'site-packages' / 'paramiko'
    broken.mkdir(parents=True)
    (broken / '__init__.py').write_text('raise ImportError("half of it is missing")')
    script = bare_ashell.start('home')
    assert script.wait() == 255
    cure = re.search(r'pip install [\w =-]+', ' '.join(script.screen.split()))[0]
    sh(cure, bare_ashell.folder, **bare_ashell.environment())
    bare_ashell.sign_in('home')


@needs('ssh-keygen', 'openssh-client')
def test_a_known_key_that_changed_is_taken_out_as_it_says(run, server, home):
    server.seed = 2
    hint = failure(run(), kind='host-key')['hint']
    # It asks the system, not $HOME, where the person's home is.
    sh(re.search(r'ssh-keygen -R .*', hint)[0] + f' -f {home.known_hosts}', home.folder)
    script = run('-o', 'StrictHostKeyChecking=accept-new')
    assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200 and script.wait() == 0


def test_a_key_that_others_can_read_is_mended_as_it_says(run, home):
    (home.ssh / 'id_ed25519').chmod(0o644)
    script = run('-i', home.ssh / 'id_ed25519', '-v')
    assert script.wait() == 255
    sh(re.search(r'chmod 600 [^\s,]+', script.stderr + script.stdout)[0], home.folder)
    script = run('-i', home.ssh / 'id_ed25519')
    assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200 and script.wait() == 0


@needs('ssh-keygen', 'openssh-client')
@pytest.mark.parametrize('made_by', ['-t ed25519 -Z aes128-cbc'])
def test_a_key_that_cannot_be_read_is_converted_as_it_says(tmp_path, made_by):
    path = tmp_path / 'key'
    sh(f'ssh-keygen -q -N secret1 -f {path} {made_by}', tmp_path)
    with pytest.raises(codex_login.Problem) as raised:
        codex_login.load_private_key(str(path), 'secret1')
    sh(re.search(r'ssh-keygen -p .*', raised.value.hint)[0].replace('ssh-keygen -p', 'ssh-keygen -p -P secret1 -N secret2'), tmp_path)
    assert codex_login.load_private_key(str(path), 'secret2').asbytes()
