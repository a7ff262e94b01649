"""a-Shell's Python says it runs on iOS. Its standard library is patched for that; this one's is not."""

import os
import subprocess       # looks at sys.platform while it is imported, and would find that iOS has no processes
import sys

assert subprocess
# pip would look for iOS's libraries; the app's finds its own.
if 'pip' not in map(os.path.basename, sys.orig_argv):
    sys.platform = 'ios'
