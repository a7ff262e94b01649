"""Attacks that were tried on the script, each by name: a stranger's link, a false server, a page, other people at the server.

The server here is the embedded one; what it says and does is what a hostile one would.
"""

# --- Who asked ----------------------------------------------------------------------------------------------


# --- Which server -------------------------------------------------------------------------------------------


# --- What comes back ----------------------------------------------------------------------------------------


# --- Other people on the server -----------------------------------------------------------------------------


# --- Hostile words, endless words ---------------------------------------------------------------------------
