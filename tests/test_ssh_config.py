"""ssh_config(5), held against `ssh -G`: each configuration of a table is read by ssh and by the script, and compared field by field.

Both run in one place of their own, where the account lives in a home of the test's, and /etc/ssh is the test's as well:
there this file is started as a program. Each case begins with what was there anew.

What ssh refuses, the script refuses, and the other way round; where that is not so on purpose, the table says it.
"""

import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'scripts'))
script = importlib.import_module('codex_login')

ALGORITHMS = 'ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512'
FEDORA = {'/etc/ssh/ssh_config': '# like Fedora\'s\nInclude /etc/ssh/ssh_config.d/*.conf\n',
          '/etc/ssh/ssh_config.d/50-redhat.conf': '''
Match final all
\tInclude /etc/ssh/openssh.config
\tGSSAPIAuthentication yes
\tForwardX11Trusted yes
''', '/etc/ssh/openssh.config': '''Ciphers aes256-gcm@openssh.com,aes256-ctr
MACs hmac-sha2-256
GSSAPIKeyExchange no
PubkeyAcceptedAlgorithms ssh-ed25519
RequiredRSASize 2048
'''.replace('GSSAPIKeyExchange no\n', '')}
DEBIAN = {'/etc/ssh/ssh_config': '''
# like Debian's and Ubuntu's
Include /etc/ssh/ssh_config.d/*.conf

Host *
#   ForwardAgent no
#   Port 22
#   ProxyCommand ssh -q -W %h:%p gateway.example.com
    SendEnv LANG LC_*
    HashKnownHosts yes
    GSSAPIAuthentication yes
''', '/etc/ssh/ssh_config.d/20-systemd-ssh-proxy.conf': '''
# Make sure unix/* and vsock/* can be used to connect to AF_UNIX and AF_VSOCK paths
Host unix/* vsock/*
    ProxyCommand /usr/lib/systemd/systemd-ssh-proxy %h %p
    ProxyUseFdpass yes
    CheckHostIP no
Host .host
    ProxyCommand /usr/lib/systemd/systemd-ssh-proxy unix/run/ssh-unix-local/socket %p
    ProxyUseFdpass yes
    CheckHostIP no
'''}
MACOS = {'/etc/ssh/ssh_config': '''
# like macOS's
Include /etc/ssh/ssh_config.d/*
Host *
    SendEnv LANG LC_*
''', '/etc/ssh/ssh_config.d/100-macos.conf': '''
# Options set in the included files override
Host *
    IdentityAgent SSH_AUTH_SOCK
'''}

# One case: the person's own configuration, and what is not usual about it. `words` are those of the command line, `files`
# others, in ~/.ssh unless they begin with /. `passed` is what ssh ends at and the script does not, `refused` the
# other way round, by a word of its message.
CASES = {}


def case(name, config, words='box', files=(), environ=(), passed=False, refused=''):
    assert name not in CASES, name
    CASES[name] = {'config': config, 'words': words.split() if isinstance(words, str) else list(words), 'files': dict(files),
                   'environ': dict(environ), 'passed': passed, 'refused': refused}


def cases(name, config, *lines, **more):
    """A case for each line, put into `config` at its {}."""
    for line in lines:
        case(f'{name}: {line}'[:90], config.replace('{}', line), **more)


# --- Lines

case('nothing at all', '')
case('nothing for this host', 'Host other\n Port 2222\n')
case('lines before the first Host', 'Port 2222\nUser ana\nHost other\n Port 1\n')
case('the first value counts', 'Host box\n Port 1\nHost *\n Port 2\n User ana\nHost b*\n User bob\n')
cases('port', 'Host box\n {}\n', 'Port 2222', 'port 2222', 'PORT\t2222', 'Port=2222', 'Port = 2222', 'Port =2222', 'Port= 2222',
      '"Port" 2222', 'Port "2222"', "Port '2222'", 'Port 2222   ', 'Port 2222 # not 22', 'Port 2222 #', 'Port\t=\t2222', 'Port ssh',
      'Port http', 'Port 65535', 'Port \\2222', 'Port 22#22', 'Port 0', 'Port 65536', 'Port abc', 'Port', 'Port =', 'Port 22 23',
      'Port ""', 'Port "2222', 'Port 2222 "# x"', 'Port -22', 'Port 2222\f')
case('windows line ends', 'Host box\r\n  Port 2222\r\n\r\n# x\r\n  User ana\r\n')
case('a byte order mark', '\ufeffHost box\n Port 2222\n', passed=True)
case('no line end at the end', 'Host box\n Port 2222')
case('tabs and many blanks', '\t \tHost\t \tbox\n\t\t  Port \t 2222\t \n')
case('comments everywhere', '# a\n   # b\n\nHost box # c\n#Port 1\n Port 2222 # d\n\t# e\n')
case('a comment that is a name', 'Host box#1\n HostName real.example\n Port 2222\n', 'box#1')
case('a line with form feeds', 'Host box\n Port 2222 \f\f\n')
case('odd line breaks are no line breaks', 'Host box\n User a\u2028Port\x0b\n Port 2222\n')
case('umlauts', 'Host bücher\n User jürgen\n IdentityFile ~/.ssh/schlüssel\n', 'bücher')
cases('words', 'Host box\n IdentityFile {}\n', '~/.ssh/a', '"~/.ssh/my key"', "'~/.ssh/my key'", '~/.ssh/my\\ key', '"~/.ssh/a\\"b"',
      "~/.ssh/a\\'b", '~/.ssh/a\\\\b', '~/.ssh/a\\nb', '"~/.ssh/a" # b', '~/.ssh/"my key".pem', "'/x\"y'", '"/x\'y"', '"/x#y"', '/x#y',
      '~/.ssh/my key', '~', '~/', '~//x', '/a/../b', 'relative/key', 'none', 'NONE', '""', '"/x', "'/x", '"/x\\ y"', '/x" "y', '\\#x')
cases('user', 'Host box\n User {}\n', 'ana', 'CORP\\ana', '"Ana Doe"', "o\\'neil", 'a=b', 'ana@corp.example', '"a#b"', 'ana # x',
      'Ana Doe')
case('a key that nobody knows', 'Host box\n Colour blue\n Port 2222\n', passed=True)
case('a key that nobody knows, for another host', 'Host other\n Colour blue\nHost box\n Port 2222\n', passed=True)
case('an unknown key that ssh is told to ignore', 'IgnoreUnknown Colour,UseKeychain\nHost box\n UseKeychain yes\n Colour blue\n Port 2222\n')
case('a bad value for another host', 'Host other\n Port abc\nHost box\n Port 2222\n', passed=True)
case('what is known and has no meaning here', 'Host box\n ForwardAgent yes\n ForwardX11 yes\n Compression yes\n ControlMaster auto\n'
     ' ControlPath ~/.ssh/cm-%C\n ControlPersist 10m\n AddKeysToAgent yes\n SendEnv LANG LC_*\n SetEnv TERM=xterm-256color\n'
     ' RequestTTY yes\n RemoteCommand tmux new -A -s main\n LocalCommand echo "%h"\n PermitLocalCommand yes\n VisualHostKey yes\n'
     ' EscapeChar none\n LogLevel ERROR\n TCPKeepAlive yes\n Tunnel no\n HashKnownHosts yes\n UpdateHostKeys yes\n'
     ' CheckHostIP no\n VerifyHostKeyDNS no\n Ciphers aes256-ctr\n MACs hmac-sha2-256\n KexAlgorithms curve25519-sha256\n'
     ' PubkeyAcceptedAlgorithms +ssh-rsa\n GSSAPIAuthentication no\n IPQoS throughput\n Port 2222\n')

# --- Host

cases('patterns', 'Host {}\n Port 2222\n', 'box', 'BOX', 'b?x', '*', 'b*', '*x', '?', '????', 'a b box c', '"box"', '"a b" box', 'b*x*', '**',
      '* !box', '!box *', '!other', '!other *', '!b* box', 'box !b?', '[bc]ox', 'box,other', 'box, other', '!box', 'other # box',
      'box.example', '"*"', '*.example !a.example', '"', '""', '', 'box\\', '\\box')
case('names are told apart by case', 'Host Box\n Port 2222\nHost box\n Port 2223\n', 'Box')
case('the name is what was typed', 'Host box\n HostName real.example\nHost real.example\n Port 2222\n')
cases('names with signs', 'Host {}\n HostName real.example\n Port 2222\n', 'box', 'other')
for sign in ('work/db', 'my+srv', 'a=b', 'a~b', 'unix/x', 'a_b', 'x.y.z', 'a,b', 'a%b', 'a#b', 'ä.example', '1.2.3'):
    case(f'a name with signs: {sign}', f'Host {sign}\n HostName real.example\n Port 2222\n', [sign])
case('with user and port', 'Host box\n Port 1\n User bob\n', 'ssh://ana@box:2222')
case('with user', 'Host box\n Port 2022\n User bob\n', 'ana@box')
case('an address', 'Host 192.0.2.*\n User ana\n', '192.0.2.7')
case('an IPv6 address', 'Host 2001:db8::*\n User ana\n', '2001:db8::7')
case('an IPv6 address, written otherwise', 'Host *\n User ana\n', '2001:DB8:0::0007')

# --- HostName, Match

cases('hostname', 'Host box\n HostName {}\n', 'real.example', 'REAL.Example', '%h.example', '%h.%h', 'a%%b', '10.0.0.1', '2001:DB8::1',
      'fe80::1%%lo', '"real.example"', 'real.example # x', '%n.example', '%x', '%', 'a b')
case('a name that can be none', 'HostName %%h\n', refused='no host')
case('an empty Match', 'Match\n Port 2222\n')
cases('match', 'Host box\n HostName real.example\n User ana\nMatch {}\n Port 2222\n', 'all', 'ALL', '!all', 'host real.example',
      'host REAL.example', 'host box', 'originalhost box', 'originalhost BOX', 'originalhost real.example', 'host *.example user ana',
      'host *.example user bob', 'user ana', 'user Ana', 'user a*,!ana', 'user bob,ana', 'user !bob', 'user !bob,*', '!user bob', '!user ana',
      'localuser person', 'localuser other', '!localuser other', 'localuser per*', 'host "real.example"', 'host "a,real.*"', 'host a,real.*',
      'host a, real.*', 'host real.example,!real.*', 'host *,!real.*', 'host=real.example', 'host=real.example user=ana',
      'Host real.example User git', 'HOST real.example USER ana', '!host real.example', '!host other', 'host', 'user ana all',
      'all user ana', 'host real.example # x', 'all # x', '# all', 'exec true', 'exec false', '!exec false', '!exec true',
      'exec "test %h = real.example"', 'exec "test %n = box -a %r = ana -a %p = 22 -a %u = person"', 'exec "exit 3"', 'user bob exec true',
      'exec "test -n \'%C%L%l%i%d%k\' && test %% = %"', 'exec "exit %x"', 'exec "echo out; echo \'a b\'"', 'canonical', '!canonical',
      'canonical all', '!canonical all', 'final', 'final all', 'final host real.example', 'final host box', 'final originalhost box',
      'final user ana', '!final host real.example', 'final all # x')
cases('newer conditions of Match', 'Match {}\n Port 2222\n', 'tagged x', '!tagged x', 'localnetwork 10.0.0.0/8', 'sessiontype shell',
      'version OpenSSH*', 'colour blue', passed=True)
case('an equals sign of its own', 'Match host = box\n Port 2222\n', refused='has no value')
case('a Match before what it asks for', 'Match user ana\n Port 2222\nHost box\n User ana\n')
case('a Match after the port', 'Match exec "test %p = 2222"\n User ana\n', '-p 2222 box')
case('a Match by the user that was typed', 'Match Host box User git\n HostName wrong.example\nHost *\n Port 2022\n', 'kim@box')
case('a Match by -l', 'Match user git\n Port 2022\n', '-l git box')
case('Host between Match', 'Match user nobody\n Port 1\nHost box\n Port 2\nMatch all\n User ana\n')
case('the second reading sees the real name', 'Host real.example\n Port 2222\nHost box\n HostName real.example\nMatch final host nothing\n User x\n')
case('the second reading and capitals', 'Host real.example\n Port 2222\nHost box\n HostName REAL.example\nMatch final all\n User ana\n')
case('the second reading adds to lists once', 'Match final all\n IdentityFile /b\nHost *\n IdentityFile /a\n LocalForward 8080 a:80\n')
case('the second reading has no HostName', 'Match final all\n HostName late.example\n Port 2222\n')
case('the second reading, the first value stays', 'Port 1\nMatch final all\n Port 2222\n')
case('the second reading by names', 'CanonicalizeHostname yes\nHost real.example\n User ana\nHost box\n HostName real.example\n')
case('names are completed', 'CanonicalizeHostname yes\nCanonicalDomains invalid\nCanonicalizeMaxDots 0\n', 'box', refused='box')
case('names are completed, with nothing', 'CanonicalizeHostname yes\nCanonicalDomains none\nPort 2222\n')
case('names are completed, but this one is whole', 'CanonicalizeHostname yes\nCanonicalDomains invalid\nPort 2222\n', 'a.b.c')
case('names are completed behind a jump', 'Host box\n CanonicalizeHostname yes\n CanonicalDomains invalid\n ProxyJump gate\n Port 2222\n')

# --- Include

case('include', 'Include more\n', files={'more': 'Host box\n Port 2222\n'})
case('include, quoted', 'Include "my files/*"\n', files={'my files/a': 'Host box\n Port 2222\n'})
case('include by ~', 'Include ~/.ssh/more\n', files={'more': 'Host box\n Port 2222\n'})
case('include by ~ elsewhere', 'Include ~/elsewhere\n', files={'../elsewhere': 'Host box\n Port 2222\n'})
case('include several', 'Include one two\n', files={'one': 'Port 1\n', 'two': 'Port 2\nUser ana\n'})
case('include by a pattern, in order', 'Include conf.d/*\n', files={'conf.d/20': 'User b\n', 'conf.d/10': 'User a\n', 'conf.d/.x': 'User c\n'})
case('include by a pattern with brackets', 'Include conf.d/[1-2]?\n', files={'conf.d/30': 'User c\n', 'conf.d/20': 'User b\n'})
case('include what is not there', 'Include nowhere conf.d/*\nPort 2222\n')
case('include a folder', 'Include conf.d\nPort 2222\n', files={'conf.d/a': 'Port 1\n'})
case('include nothing', 'Include\nPort 2222\n')
case('include with a comment', 'Include more # less\nPort 2222\n', files={'more': 'User ana\n', '#': 'User bob\n'})
case('include in a block', 'Host box\n Include more\n Port 3\n', files={'more': 'Port 2222\n'})
case('include in a block of another', 'Host other\n Include more\nHost box\n Port 3\n', files={'more': 'Port 2222\nHost *\n User ana\nMatch all\n User bob\n'})
case('include in a block, its Host lines count in it', 'Host other\n Include more\n', files={'more': 'Host box\n Port 2222\n'})
case('include in a block that counts, its Host lines too', 'Host b*\n Include more\n User x\n', files={'more': 'Host box\n Port 2222\nHost other\n Port 1\n'})
case('what an included file begins ends with it', 'Include more\nPort 2222\n', files={'more': 'Host other\n User ana\n'})
case('what an included file begins ends with it, in a block', 'Host box\n Include more\n Port 2222\n', files={'more': 'Match user nobody\n User ana\n'})
case('include in include', 'Include a\n', files={'a': 'Include b\nUser ana\n', 'b': 'Host box\n Port 2222\n'})
case('include in a Match', 'Match originalhost box\n Include a\n', files={'a': 'Port 2222\n'})
case('a file that includes itself', 'Include config\n')
case('files that include each other', 'Host nobody\n Include a\n', files={'a': 'Include b\n', 'b': 'Include a\n'})
case('a Match final in a file that does not count', 'Host nobody\n Include a\nHost real.example\n Port 2222\nHost box\n HostName real.example\n',
     files={'a': 'Match final all\n User ana\n'})
case('an included file with windows line ends', 'Include a\n', files={'a': 'Host box\r\n Port 2222\r\n'})
case('-F', 'Port 1\n', '-F {home}/.ssh/other box', files={'other': 'Include more\nUser ana\n', 'more': 'Port 2222\n', '/etc/ssh/ssh_config': 'User sys\n'})
case('-F none', 'Port 1\n', '-F none box', files={'/etc/ssh/ssh_config': 'User sys\n'})
case('-F nowhere', 'Port 1\n', '-F {home}/nowhere box')

# --- The files of the system

for kind, system in (('fedora', FEDORA), ('debian', DEBIAN), ('macos', MACOS)):
    case(f'{kind}, alone', '', files=system)
    case(f'{kind}, and a server', 'Host box\n HostName 192.0.2.1\n Port 2222\n User ana\n IdentityFile ~/.ssh/id_box\n', files=system)
    case(f'{kind}, and a jump', 'Host box\n ProxyJump gate\nHost *\n ServerAliveInterval 60\n', files=system)
    case(f'{kind}, and unix/x', 'Host unix/x\n ProxyCommand none\n HostName real.example\n', 'unix/x', files=system)
case('the own file comes first', 'Host box\n Port 1\n', files={'/etc/ssh/ssh_config': 'Port 2\nUser sys\n'})
case('the block of the own file ends with it', 'Host other\n User ana\n', files={'/etc/ssh/ssh_config': 'User sys\n'})
case('relative files of the system', '', files={'/etc/ssh/ssh_config': 'Include more\n', '/etc/ssh/more': 'Port 2222\n', 'more': 'Port 1\n'})

# --- Values

cases('yes and no', 'Host box\n {}\n', 'BatchMode yes', 'BatchMode no', 'BatchMode YES', 'BatchMode true', 'BatchMode false', 'BatchMode maybe',
      'BatchMode "yes"', 'BatchMode yes no', 'IdentitiesOnly yes', 'GatewayPorts yes', 'ExitOnForwardFailure yes', 'ClearAllForwardings yes',
      'PubkeyAuthentication no', 'PubkeyAuthentication unbound', 'PubkeyAuthentication host-bound', 'PasswordAuthentication no',
      'KbdInteractiveAuthentication no', 'ChallengeResponseAuthentication no', 'DSAAuthentication no', 'CanonicalizeHostname no',
      'StrictHostKeyChecking yes', 'StrictHostKeyChecking no', 'StrictHostKeyChecking off', 'StrictHostKeyChecking accept-new',
      'StrictHostKeyChecking ASK', 'StrictHostKeyChecking perhaps', 'AddressFamily inet', 'AddressFamily inet6', 'AddressFamily ANY',
      'AddressFamily ipv4')
cases('numbers and times', 'Host box\n {}\n', 'ConnectTimeout 7', 'ConnectTimeout none', 'ConnectTimeout none\n ConnectTimeout 9', 'ConnectTimeout 1m30s',
      'ConnectTimeout 1H', 'ConnectTimeout soon', 'ConnectTimeout -1', 'ConnectTimeout ""', 'ConnectTimeout 1.5', 'ServerAliveInterval 60',
      'ServerAliveInterval 2m', 'ServerAliveInterval 0', 'ServerAliveCountMax 5', 'ServerAliveCountMax x', 'ConnectionAttempts 3',
      'ConnectionAttempts x', 'NumberOfPasswordPrompts 1', 'NumberOfPasswordPrompts 0')
cases('authentication', 'Host box\n {}\n', 'PreferredAuthentications publickey', 'PreferredAuthentications password,publickey',
      'PreferredAuthentications keyboard-interactive,password', 'PreferredAuthentications gssapi-with-mic,hostbased,publickey',
      'PreferredAuthentications password\n PasswordAuthentication no', 'IdentityAgent none', 'IdentityAgent SSH_AUTH_SOCK',
      'IdentityAgent ~/.agent', 'IdentityAgent "~/Library/Group Containers/x/agent.sock"', 'IdentityAgent ${HOME}/.agent',
      'IdentityAgent %d/agent-%r', 'IdentityAgent $NOTHING', 'IdentityAgent ${NOTHING}', 'CertificateFile ~/.ssh/id-cert.pub',
      'CertificateFile /a\n CertificateFile /b\n CertificateFile /a', 'IdentityFile /a\n IdentityFile /b', 'IdentityFile /a\n IdentityFile "/a"',
      'IdentityFile2 /a', 'BindAddress 192.0.2.9')
cases('host keys', 'Host box\n {}\n', 'HostKeyAlias cluster', 'HostKeyAlias CLUSTER.example', f'HostKeyAlgorithms {ALGORITHMS}',
      'UserKnownHostsFile /dev/null', 'UserKnownHostsFile none', 'UserKnownHostsFile NONE', 'UserKnownHostsFile none /x', 'UserKnownHostsFile /a /b',
      'UserKnownHostsFile ~/a "~/b c"', 'UserKnownHostsFile ${HOME}/a', 'UserKnownHostsFile ${NOTHING}/a', 'UserKnownHostsFile ""',
      'UserKnownHostsFile /x/%%/%h/%i/%L/%l/%n/%p/%r/%u/%k', 'UserKnownHostsFile %d/%C', 'UserKnownHostsFile /x/%x', 'UserKnownHostsFile /x/%',
      'UserKnownHostsFile ~root/a', 'GlobalKnownHostsFile /a /b', 'GlobalKnownHostsFile none', 'GlobalKnownHostsFile "/a b"',
      'RevokedHostKeys /etc/revoked', 'RevokedHostKeys none')
case('tokens with all that can be said', 'Host box\n HostName Real.example\n User ana\n Port 2222\n HostKeyAlias cluster\n'
     ' UserKnownHostsFile %d/%h-%n-%p-%r-%u-%k %C\n')
case('first file list', 'Host box\n UserKnownHostsFile /a\nHost *\n UserKnownHostsFile /b\n IdentityFile /c\n')

# --- Forwards

cases('forwards', 'Host box\n {}\n', 'LocalForward 8080 web:80', 'LocalForward 127.0.0.1:8080 web:80', 'LocalForward *:8080 web:80', 'LocalForward :8080 web:80',
      'LocalForward [::1]:8080 [2001:db8::1]:80', 'LocalForward 8080 web:http', 'LocalForward "8080" "web:80" # x',
      'RemoteForward 9000 localhost:22', 'RemoteForward 9000', 'RemoteForward 0 localhost:22', 'RemoteForward 127.0.0.1:9000', 'RemoteForward *:9000 a:1',
      'DynamicForward 1080', 'DynamicForward 127.0.0.1:1080', 'DynamicForward *:1080', 'DynamicForward [::1]:1080',
      'LocalForward 8080 web:80\n LocalForward 8080 web:80\n LocalForward 8081 web:80', 'DynamicForward 1080\n DynamicForward 1081',
      'LocalForward 8080 /run/socket', 'RemoteForward /run/user/1000/gnupg/S.gpg-agent /home/ana/.gnupg/S.gpg-agent.extra')
cases('forwards that are none', 'Host box\n {}\n', 'LocalForward 8080 web', 'LocalForward 8080 web:99999', 'DynamicForward x', 'LocalForward a b c', passed=True)
case('forwards add up', 'Host box\n LocalForward 8080 a:80\n DynamicForward 1080\n RemoteForward 9000 b:22\nHost *\n LocalForward 8081 a:81\n'
     ' DynamicForward 1081\n RemoteForward 9001 b:22\n LocalForward 8080 a:80\nMatch all\n LocalForward 8082 a:82\n')
case('forwards, cleared', 'LocalForward 8080 a:80\nDynamicForward 1080\nClearAllForwardings yes\n')
cases('what a client may name', 'Host box\n PermitRemoteOpen {}\n', 'any', 'none', 'a:80', 'a:80 b:443', '*:80', 'a:*', '[::1]:22', 'ANY')
cases('what a client may name, and nobody can', 'PermitRemoteOpen {}\n', 'a:80 none', 'a', 'a:x', passed=True)

# --- Ways through other servers

cases('through', 'Host box\n {}\n', 'ProxyJump gate', 'ProxyJump ana@gate:2222', 'ProxyJump a,b,c', 'ProxyJump ana@a:1,bob@b', 'ProxyJump none', 'ProxyJump NONE',
      'ProxyJump [2001:db8::1]:22', 'ProxyJump ssh://ana@gate:2222', 'ProxyJump gate # x', 'ProxyJump = gate', 'ProxyJump gate\n ProxyJump other',
      'ProxyJump none\n ProxyJump gate', 'ProxyJump gate\n ProxyCommand nc %h %p', 'ProxyCommand none',
      'ProxyCommand none\n ProxyJump gate', 'ProxyCommand NONE', 'ProxyJump ana@', 'ProxyJump a,,b', 'ProxyJump gate:x', 'ProxyCommand ssh gate -W %h:%p',
      'ProxyCommand ssh -W %h:%p gate', 'ProxyCommand ssh -q -W [%h]:%p ana@gate', 'ProxyCommand exec ssh -W "%h:%p" gate', 'ProxyCommand /usr/bin/ssh -qW %h:%p gate',
      'ProxyCommand ssh -A -x -a -p 2222 -l ana gate -W %h:%p', 'ProxyCommand = ssh gate -W %h:%p', 'ProxyCommand ssh %r@gate -W %h:%p 2>/dev/null',
      'ProxyCommand ssh gate nc %h %p', 'ProxyCommand ssh gate nc -w 5 %h %p 2> /dev/null', 'ProxyCommand "ssh')
cases('commands', 'Host box\n {}\n', 'ProxyCommand nc %h %p', 'ProxyCommand ssh gate -W elsewhere:22', 'ProxyCommand ssh gate -W %h:%p | tee x',
      'ProxyCommand cloudflared access ssh --hostname %h', 'ProxyCommand ssh gate nc other 22', 'ProxyCommand sh -c "ssh gate -W %h:%p"',
      'ProxyCommand ssh gate -W %h:%p; reboot', 'ProxyCommand ssh $GATE -W %h:%p', 'ProxyJump none\n ProxyCommand nc %h %p', refused='no command is run here')
case('through by -J', 'Host box\n ProxyJump other\n ProxyCommand nc %h %p\n', '-J gate box')
case('through by -o', 'Host box\n ProxyCommand nc %h %p\n', ['-o', 'ProxyJump=gate', 'box'])

# --- The command line

USUAL = 'Host box\n Port 1\n User bob\n IdentityFile /c\n LocalForward 8080 a:80\n BatchMode yes\n StrictHostKeyChecking yes\n'
for number, typed in enumerate((
        ['-p', '2222', 'box'], ['-p', 'ssh', 'box'], ['-p2222', '-lana', 'box'], ['-l', 'ana', 'bob@box'], ['-o', 'Port=2222', 'box'],
        ['-o', 'Port 2222', '-o', 'port=1', 'box'], ['-oPort=2222', 'box'], ['-o', 'User=ana', 'eve@box'], ['-o', 'BatchMode=no', 'box'],
        ['-o', 'LocalForward=8081 b:81', 'box'], ['-o', 'LocalForward 8080 a:80', 'box'], ['-o', 'DynamicForward=1080', 'box'],
        ['-o', 'IdentityFile="/my key"', 'box'], ['-o', 'IdentityFile=/a', '-o', 'IdentityFile=/b', 'box'], ['-o', 'UserKnownHostsFile=/a /b', 'box'],
        ['-o', 'UserKnownHostsFile="/a b"', 'box'], ['-o', 'ClearAllForwardings=yes', 'box'], ['-4', 'box'], ['-6', 'box'], ['-g', 'box'],
        ['-o', 'HostName=real.example', 'box'], ['-o', 'HostName=%h.example', 'box'], ['-NT', 'box'], ['-nNT', 'box'], ['-TCg4', '-p', '2222', 'box'],
        ['box', '-p', '2222'], ['-o', 'StrictHostKeyChecking=accept-new', 'box'], ['-J', 'a,b', 'box'], ['-o', 'PermitRemoteOpen=none', 'box'],
        ['-o', 'Port=abc', 'box'], ['-o', 'ConnectTimeout=none', 'box'], ['-o', 'IdentitiesOnly', 'box'], ['-o', 'PreferredAuthentications=password', 'box'])):
    case(f'typed {number}: {" ".join(typed)}', USUAL, typed)


# --- What is compared

# Fields whose text is the same in both, once a few words of ssh's are put otherwise.
SAME_WORDS = {'true': 'yes', 'false': 'no', 'unbound': 'yes', 'host-bound': 'yes'}


def of_ssh(said, home):
    """{field: value} of what `ssh -G` printed."""
    lines = [line.partition(' ')[::2] for line in said.split('\n')]
    every = {key: [value for other, value in lines if other == key] for key, _ in lines}
    one = {key: SAME_WORDS.get(values[0], values[0]) for key, values in every.items()}

    def at_home(paths):
        return [re.sub('^~(/+|$)', f'{home}/', path) for path in paths if path.lower() != 'none']

    sockets = [value.split()[0] for key, value in lines if key == 'localforward' and '/' in value]      # dynamic as well, ssh says
    files = at_home(every['identityfile'])
    methods = one.get('preferredauthentications', 'publickey,keyboard-interactive,password').split(',')
    switched = {'publickey': one['pubkeyauthentication'], 'password': one['passwordauthentication'],
                'keyboard-interactive': one['kbdinteractiveauthentication']}
    jumps = [] if 'proxyjump' not in one else [
        re.fullmatch(r'(?:(.*)@)?\[?(.*?)\]?(?::([0-9]+))?', jump.removeprefix('ssh://')).groups() for jump in one['proxyjump'].split(',')]
    return {
        'host': one['hostname'].lower(), 'user': one['user'], 'port': one['port'], 'family': one['addressfamily'], 'batch': one['batchmode'],
        'identities only': one['identitiesonly'], 'exit on forward failure': one['exitonforwardfailure'], 'gateway ports': one['gatewayports'],
        'cleared': one['clearallforwardings'], 'strict': {'no': 'accept-new'}.get(one['stricthostkeychecking'], one['stricthostkeychecking']),
        'timeout': one['connecttimeout'], 'interval': one['serveraliveinterval'], 'count': one['serveralivecountmax'],
        'attempts': one['connectionattempts'], 'password tries': one['numberofpasswordprompts'], 'bind address': one.get('bindaddress', ''),
        'identity files': [] if 'id_xmss' in str(files) else files, 'certificate files': at_home(every.get('certificatefile', [])),
        'known_hosts': one['userknownhostsfile'].replace('none', ''), 'global known_hosts': one['globalknownhostsfile'].replace('none', ''),
        'revoked': at_home(every.get('revokedhostkeys', [])), 'alias': one.get('hostkeyalias', ''),
        'algorithms': one['hostkeyalgorithms'], 'methods': [name for name in methods if switched.get(name) == 'yes'],
        'agent': re.sub('^[$].*', 'none', one.get('identityagent', 'SSH_AUTH_SOCK')), 'jumps': jumps, 'proxy': 'proxycommand' in one,
        'forwards': sorted(f'{key[0]} ' + re.sub(r'^\*?(?=:)|^\[\*?\](?=:)', '*', value) for key, value in lines
                           if key in ('localforward', 'remoteforward', 'dynamicforward') and '/' not in value
                           and not (key == 'dynamicforward' and value in sockets)),
        'unmade': len([1 for key, value in lines if key in ('localforward', 'remoteforward') and '/' in value]),
        'permitted': {'ANY': 'any'}.get(one['permitremoteopen'], one['permitremoteopen'])}


def of_script(settings, expected):
    """The same of the script's Settings; what ssh has another default for is taken over from `expected`."""
    def said(flag):
        return 'yes' if flag else 'no'

    def unless(default, value, of_ssh):
        own, *others = default
        return of_ssh if str(value) == own and of_ssh in others else str(value)

    def brackets(host):
        return f'[{host}]' if host else ''

    return {
        'host': settings.host, 'user': settings.user, 'port': str(settings.port), 'family': settings.family, 'batch': said(settings.batch),
        'identities only': said(settings.identities_only), 'exit on forward failure': said(settings.exit_on_forward_failure),
        'gateway ports': said(settings.gateway_ports), 'cleared': said(settings.clears_forwards), 'strict': settings.strict,
        'timeout': unless(('15', 'none'), settings.connect_timeout, expected['timeout']),
        'interval': unless(('15', '0', '300'), settings.alive_interval, expected['interval']),
        'count': unless(('2', '3'), settings.alive_count, expected['count']),
        'attempts': str(settings.attempts), 'password tries': str(settings.password_tries), 'bind address': settings.bind_address,
        'identity files': list(settings.identity_files) if settings.identities_named else [],
        'certificate files': list(settings.certificate_files),
        'known_hosts': ' '.join(settings.known_hosts_files), 'global known_hosts': ' '.join(settings.global_files),
        'revoked': list(settings.revoked_files),
        'alias': '' if settings.known_as == script.known_hosts_name(settings.host, settings.port) else settings.known_as,
        'algorithms': settings.key_algorithms or expected['algorithms'], 'methods': list(settings.methods),
        'agent': {None: 'SSH_AUTH_SOCK', '': 'none'}.get(settings.agent, settings.agent),
        'jumps': [(jump.user, jump.host, jump.port and str(jump.port)) for jump in settings.jumps], 'proxy': settings.proxy is not None,
        'forwards': sorted(f'{spec.mode.lower()} ' + (f'{brackets(spec.bind)}:' if spec.bind not in ('', '*') else '*:' if spec.bind else '')
                           + str(spec.port) + (f' [{spec.host or "socks"}]:{spec.hostport}' if spec.mode != 'D' else '')
                           for spec in settings.forwards),
        'unmade': len(settings.unmade),
        'permitted': 'any' if settings.permit_remote_open is None else ' '.join(settings.permit_remote_open)}


# --- Both, at the same place

def asked(case):
    """[what ssh said, why it did not, the script's Settings, why not] of one case, in the place of both."""
    home = Path(os.environ['HOME'])
    for folder in (home / '.ssh', Path('/etc/ssh')):
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for name, text in {'config': case['config'], **case['files']}.items():
        path = Path(home / '.ssh', name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    words = [word.format(home=home) for word in case['words']]
    ssh = subprocess.run(['ssh', '-G', *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    settings, problem = None, None
    try:
        options = script.read_arguments(words)
        settings = script.settings_of(options, script.Device(True))
    except script.Problem as raised:
        problem = f'{raised.kind} {raised.message} {raised.hint}'
    return [ssh.stdout if ssh.returncode == 0 else None, ssh.stderr, repr(settings) if settings else None, problem]


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    """What both made of each case."""
    oracle = pytest.importorskip('oracle')
    if why := oracle.missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp('account')
    (folder / '.ssh').mkdir()
    (folder / 'passwd').write_text(f'person:x:0:0::{folder}:/bin/sh\nroot:x:1:0::/root:/bin/sh\n')
    lab = importlib.import_module('lab')
    here = 'mount --bind "$0" /etc/passwd; mount -t tmpfs none /etc/ssh; umask 022; exec "$@"'
    told = subprocess.run(
        ['unshare', *lab.user_namespace(), '-m', 'sh', '-ec', here, str(folder / 'passwd'), sys.executable, __file__],
        input=json.dumps(CASES), capture_output=True, text=True, timeout=300,
        env={'HOME': str(folder), 'PATH': os.environ['PATH'], 'SHELL': '/bin/sh', 'LANG': 'C.UTF-8', 'USER': 'person', 'LOGNAME': 'person'})
    assert told.returncode == 0, told.stderr
    return folder, json.loads(told.stdout)


def difference(home, this, said, errors, settings, problem):
    """What is otherwise than with ssh; '' where nothing is."""
    if this['refused']:
        return '' if this['refused'] in (problem or '') else f'it is not refused: {problem}'
    if said is None and this['passed']:
        return '' if settings else f'it is not passed over: {problem}'
    if said is None:
        return '' if re.match('(config|usage) ', problem or '') else f'ssh refuses it: {errors}'
    if not settings:
        return f'ssh takes it: {problem}'
    expected = of_ssh(said, home)
    found = of_script(eval(settings, vars(script)), expected)
    return '; '.join(f'{key} is {found[key]!r}, and {expected[key]!r} to ssh' for key in expected if found[key] != expected[key])


@pytest.mark.quick
def test_each_configuration_of_the_table_means_what_it_means_to_ssh(answers):
    home, told = answers
    assert len(told) == len(CASES) >= 150
    differences = {name: difference(home, CASES[name], *answer) for name, answer in told.items()}
    assert not any(differences.values()), '\n'.join(f'{name}: {text}' for name, text in differences.items() if text)


def test_a_difference_is_seen():
    settings = script.make_settings(script.Destination('kim', 'box', 22), {}, type('Desk', (), {'ssh_folder': '/h/.ssh', 'user': lambda: 'kim'}))
    said = subprocess.run(['ssh', '-G', '-F', 'none', 'ana@box'], capture_output=True, text=True, check=True).stdout
    seen = difference('/h', CASES['nothing at all'], said, '', repr(settings), None)
    assert "user is 'kim', and 'ana' to ssh" in seen
    assert difference('/h', CASES['nothing at all'], None, 'why', repr(settings), None) == 'ssh refuses it: why'


if __name__ == '__main__':
    with contextlib.redirect_stdout(sys.stderr):
        every = {name: asked(case) for name, case in json.load(sys.stdin).items()}
    json.dump(every, sys.stdout)
