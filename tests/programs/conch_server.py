"""Conch, Twisted's server, for the connection that is its standard input: an account's commands, forwards, a key or a password.

    conch_server.py HOST-KEY AUTHORIZED-KEYS ACCOUNT [PASSWORD]
"""

import os
import socket
import sys

from twisted.conch import checkers, interfaces, unix
from twisted.conch.ssh import factory, keys, session
from twisted.cred import checkers as cred_checkers
from twisted.cred import portal
from twisted.internet import reactor
from twisted.python import components, filepath
from zope.interface import implementer

HOST_KEY, KEYS, ACCOUNT, PASSWORD = [*sys.argv[1:], None][:4]


class Session(unix.SSHSessionForUnixConchUser):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.environ.update({**os.environ, 'HOME': self.avatar.getHomeDir(), 'SHELL': self.avatar.getShell()})


class User(unix.UnixConchUser):
    pass


components.registerAdapter(Session, User, session.ISession)


@implementer(portal.IRealm)
class Realm:
    def requestAvatar(self, username, mind, *wanted):
        return interfaces.IConchUser, (user := User(os.fsdecode(username))), user.logout


class Factory(factory.SSHFactory):
    def getPublicKeys(self):
        return {key.sshType(): key.public() for key in [keys.Key.fromFile(HOST_KEY)]}

    def getPrivateKeys(self):
        return {key.sshType(): key for key in [keys.Key.fromFile(HOST_KEY)]}

    def buildProtocol(self, address):
        protocol = super().buildProtocol(address)
        lost = protocol.connectionLost

        def connection_lost(reason):
            lost(reason)
            reactor.stop()
        protocol.connectionLost = connection_lost
        return protocol


the_portal = portal.Portal(Realm())
the_portal.registerChecker(checkers.SSHPublicKeyChecker(
    checkers.InMemorySSHKeyDB({ACCOUNT.encode(): list(checkers.readAuthorizedKeyFile(filepath.FilePath(KEYS).open()))})))
if PASSWORD is not None:
    the_portal.registerChecker(cred_checkers.InMemoryUsernamePasswordDatabaseDontUse(**{ACCOUNT: PASSWORD.encode()}))
served = Factory()
served.portal = the_portal
served.doStart()
reactor.adoptStreamConnection(0, socket.AF_INET, served)
reactor.run()
