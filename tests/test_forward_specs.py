"""The room "Specs" as far as tunnels go: -L, -R and -D as a person writes them, and SOCKS. No sockets."""

import importlib
import os
import random
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MODULE = Path(os.environ.get('CODEX_LOGIN_MODULE') or HERE.parent / 'scripts' / 'codex_login.py')
sys.path.insert(0, str(MODULE.parent))
script = importlib.import_module(MODULE.stem)
ForwardSpec, Problem = script.ForwardSpec, script.Problem
Socks, parse_forward = script.Socks, script.parse_forward


# --- Specs --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('mode, text, spec', [
    ('L', '8080:localhost:80', ('', 8080, 'localhost', 80)),
    ('L', '127.0.0.1:8080:localhost:80', ('127.0.0.1', 8080, 'localhost', 80)),
    ('L', '[::1]:8080:[2001:db8::1]:80', ('::1', 8080, '2001:db8::1', 80)),
    ('L', '[fe80::1%eth0]:8080:db:5432', ('fe80::1%eth0', 8080, 'db', 5432)),
    ('L', '*:8080:localhost:80', ('*', 8080, 'localhost', 80)),
    ('L', ':8080:localhost:80', ('*', 8080, 'localhost', 80)),
    ('L', '0:localhost:80', ('', 0, 'localhost', 80)),
    ('L', '8080 localhost:80', ('', 8080, 'localhost', 80)),
    ('L', ' [::1]:8080\tlocalhost:80 ', ('::1', 8080, 'localhost', 80)),
    ('R', '8080:localhost:80', ('', 8080, 'localhost', 80)),
    ('R', ':0:localhost:80', ('*', 0, 'localhost', 80)),
    ('R', '8080', ('', 8080, '', 0)),
    ('R', '0.0.0.0:8080', ('0.0.0.0', 8080, '', 0)),
    ('D', '1080', ('', 1080, '', 0)),
    ('D', '*:1080', ('*', 1080, '', 0)),
    ('D', '[::]:0', ('::', 0, '', 0)),
])
def test_specs_mean_what_they_mean_to_ssh(mode, text, spec):
    assert parse_forward(mode, text) == ForwardSpec(mode, *spec)


@pytest.mark.parametrize('mode, text', [
    ('L', ''), ('L', ':'), ('L', '8080'), ('L', '8080:80'), ('L', '8080:localhost'),
    ('L', '8080:localhost:0'), ('L', '8080::80'), ('L', '65536:localhost:80'),
    ('L', '-1:localhost:80'), ('L', '+1:localhost:80'),
    ('L', '٣:localhost:80'), ('L', 'http:localhost:80'), ('L', '8080:localhost:80:'),
    ('L', 'a:b:8080:localhost:80'), ('L', '::1:8080:localhost:80'), ('L', '[::1:8080:localhost:80'),
    ('L', '[::1]8080:localhost:80'), ('L', '8080:-oProxyCommand=x:80'), ('L', '8080:a\x1b[2Jb:80'),
    ('L', '8080:' + 'a' * 256 + ':80'), ('R', ''), ('R', 'localhost'), ('R', '1:2:x'),
    ('D', ''), ('D', '1080:localhost:80'), ('D', '::1:1080'),
])
def test_a_spec_that_means_nothing_is_a_usage_error(mode, text):
    with pytest.raises(Problem) as raised:
        parse_forward(mode, text)
    assert (raised.value.kind, raised.value.status) == ('usage', 2)
    assert f'-{mode}' in raised.value.message and raised.value.message.isprintable()
    assert 'port' in raised.value.hint


@pytest.mark.parametrize('mode, text', [
    ('L', '/tmp/here:/tmp/there'), ('L', '8080:/tmp/there'), ('L', '8080/localhost/80'),
    ('R', '/tmp/there'), ('R', '/tmp/there:localhost:80'),
])
def test_unix_sockets_are_refused_by_name(mode, text):
    with pytest.raises(Problem, match='Unix sockets'):
        parse_forward(mode, text)


def test_a_printed_spec_reads_back_as_itself():
    chance = random.Random(6)
    hosts = ['localhost', 'db.example', '10.0.0.1', '::1', '2001:db8::1', 'fe80::1%en0', 'ü.example']
    for _ in range(2000):
        mode = chance.choice('LRD')
        target = (chance.choice(hosts), chance.randrange(1, 65536))
        spec = ForwardSpec(mode, chance.choice(['', '*', *hosts]), chance.randrange(65536),
                           *(target if mode == 'L' or mode == 'R' and chance.random() < 0.5 else ()))
        assert parse_forward(mode, str(spec)) == spec


def test_any_text_is_a_spec_or_a_usage_error():
    chance = random.Random(7)
    for _ in range(20000):
        text = ''.join(chance.choices('0189:[]*/ a.-%\x00\\é', k=chance.randrange(20)))
        try:
            spec = parse_forward(chance.choice('LRD'), text)
        except Problem as problem:
            assert problem.kind == 'usage'
        else:
            assert 0 <= spec.port <= 65535 and bool(spec.host) == bool(spec.hostport)


# --- SOCKS --------------------------------------------------------------------------------------------------

FOUR = b'\x04\x01\x00\x50\x0a\x00\x00\x01kim\x00'
FOUR_A = b'\x04\x01\x00\x50\x00\x00\x00\x01kim\x00db.example\x00'
GREETING = b'\x05\x01\x00'
FIVE = GREETING + b'\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50'
FIVE_6 = GREETING + b'\x05\x01\x00\x04' + bytes(15) + b'\x01\x00\x50'
FIVE_NAME = GREETING + b'\x05\x01\x00\x03\x0adb.example\x00\x50'
TARGETS = [
    (FOUR, ('10.0.0.1', 80), b''), (FOUR_A, ('db.example', 80), b''),
    (FIVE, ('10.0.0.1', 80), b'\x05\x00'), (FIVE_6, ('::1', 80), b'\x05\x00'),
    (FIVE_NAME, ('db.example', 80), b'\x05\x00'),
    (b'\x05\x03\x02\x01\x00' + FIVE[3:], ('10.0.0.1', 80), b'\x05\x00'),
]


def feed_in_pieces(socks, data, chance):
    answer = b''
    while data:
        size = chance.randrange(1, 1 + min(len(data), chance.choice([1, 3, 50])))
        answer += socks.feed(data[:size])
        data = data[size:]
    return answer


@pytest.mark.parametrize('request_, target, greeted', TARGETS)
def test_the_target_is_found_however_the_request_is_cut(request_, target, greeted):
    chance = random.Random(8)
    for _ in range(200):
        socks = Socks()
        assert feed_in_pieces(socks, request_[:-1], chance) == greeted
        assert socks.target is None and not socks.refused
        early = chance.randbytes(chance.randrange(5))
        assert socks.feed(request_[-1:] + early) == b''
        assert (socks.target, socks.early, socks.refused) == (target, early, False)


def test_what_was_sent_early_with_the_request_is_kept_in_order():
    chance = random.Random(9)
    for request_, target, _ in TARGETS:
        socks, early = Socks(), chance.randbytes(300)
        feed_in_pieces(socks, request_ + early, chance)
        assert (socks.target, socks.early) == (target, early)


@pytest.mark.parametrize('request_, failure, reply', [
    (FOUR, '', b'\x00\x5a'), (FOUR, 'refused', b'\x00\x5b'), (FOUR_A, 'forbidden', b'\x00\x5b'),
    (FIVE, '', b'\x05\x00\x00\x01'), (FIVE, 'failed', b'\x05\x01\x00\x01'),
    (FIVE, 'forbidden', b'\x05\x02\x00\x01'), (FIVE, 'unreachable', b'\x05\x04\x00\x01'),
    (FIVE, 'refused', b'\x05\x05\x00\x01'),
])
def test_the_outcome_is_said_in_the_clients_version(request_, failure, reply):
    socks = Socks()
    socks.feed(request_)
    assert socks.answer(failure) == reply + bytes(6)


REFUSED_4 = b'\x00\x5b' + bytes(6)


@pytest.mark.parametrize('data, reply', [
    (b'\x04\x02' + FOUR[2:], REFUSED_4),                                                   # BIND
    (GREETING + b'\x05\x02' + FIVE[5:], b'\x05\x00\x05\x07\x00\x01' + bytes(6)),           # BIND
    (GREETING + b'\x05\x03' + FIVE[5:], b'\x05\x00\x05\x07\x00\x01' + bytes(6)),           # UDP ASSOCIATE
    (GREETING + b'\x05\x01\x00\x02', b'\x05\x00\x05\x08\x00\x01' + bytes(6)),           # such an address type
    (GREETING + b'\x05\x01\x00\x03\x00\x00\x50', b'\x05\x00\x05\x01\x00\x01' + bytes(6)),  # an empty name
    (GREETING + b'\x05\x01\x00\x03\x02\xff\xfe\x00\x50', b'\x05\x00\x05\x01\x00\x01' + bytes(6)),
    (GREETING + b'\x05\x01\x00\x03\x02a\n\x00\x50', b'\x05\x00\x05\x01\x00\x01' + bytes(6)),
    (GREETING + b'\x04\x01\x00\x01', b'\x05\x00'),                                         # another version
    (b'\x05\x01\x02', b'\x05\xff'), (b'\x05\x00', b'\x05\xff'),                            # a password only
    (b'GET / HTTP/1.1\r\n', b''), (b'\x16\x03\x01', b''), (b'\x00', b''),
    (b'\x04\x01\x00\x50\x0a\x00\x00\x01' + b'u' * 300, REFUSED_4),
    (b'\x04\x01\x00\x50\x00\x00\x00\x01\x00' + b'h' * 300, REFUSED_4),
    (b'\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00', REFUSED_4),
])
def test_what_is_not_offered_is_refused_with_its_reply(data, reply):
    chance = random.Random(10)
    for _ in range(100):
        socks = Socks()
        assert feed_in_pieces(socks, data, chance) == reply
        assert socks.refused and socks.target is None


def test_hostile_bytes_neither_raise_nor_pile_up():
    chance = random.Random(11)
    for _ in range(20000):
        socks, fed = Socks(), 0
        while not (socks.target or socks.refused):
            piece = (chance.choice([b'\x04\x01', b'\x05\x01\x00', FOUR[:7], FIVE[:8], b''])
                     + chance.randbytes(chance.randrange(40)))
            socks.feed(piece)
            fed += len(piece)
            assert fed < 2000, 'it wants more and more'
        if socks.target:
            host, port = socks.target
            assert host.isprintable() and 0 <= port <= 65535
