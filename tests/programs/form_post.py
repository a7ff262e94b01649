"""The answer comes as POST, with code and state in its body: az, and whoever asks for response_mode=form_post."""

import kit

listener, port = kit.listen()
kit.show(kit.issuer(f'http://localhost:{port}/callback', response_mode='form_post'))
kit.serve_until_signed_in(listener, method='POST', where='body')
kit.done()
