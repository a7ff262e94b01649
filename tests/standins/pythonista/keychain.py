"""Pythonista's `keychain`. The record of calls shows no passwords."""

from _phone import load, record, save, text


def _key(service, account):
    text(service, 'service')
    text(account, 'account')
    return f'{service} {account}'


def get_password(service, account):
    record('keychain.get_password', service, account)
    return load('keychain.json', {}).get(_key(service, account))


def set_password(service, account, password):
    record('keychain.set_password', service, account)
    text(password, 'password')
    save('keychain.json', {**load('keychain.json', {}), _key(service, account): password})


def delete_password(service, account):
    record('keychain.delete_password', service, account)
    held = load('keychain.json', {})
    held.pop(_key(service, account), None)
    save('keychain.json', held)


def get_services():
    return [tuple(key.split(' ', 1)) for key in load('keychain.json', {})]
