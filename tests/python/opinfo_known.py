"""What torch's op database is known to do differently here, by op; see opinfo.py.

Every entry of KNOWN is a strict expected failure: an op that heals must leave the table.
"""

from __future__ import annotations

# Not equal, or not recorded: why.
KNOWN: dict[str, str] = {}

# The call's sizes or course depend on the values of its inputs, so that eager on any asynchronous device
# waits too: running at once, or reading on the host, is all that can be done.
DEPENDS_ON_DATA: dict[str, str] = {}

# The values are whatever the memory held.
UNDEFINED: dict[str, str] = {}
