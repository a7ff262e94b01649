"""Its address has no redirect, only ?port=: the page there knows that it leads to http://localhost:PORT/callback."""

import kit

listener, port = kit.listen()
kit.show(kit.issuer(None, port=port))
kit.serve_until_signed_in(listener)
kit.done()
