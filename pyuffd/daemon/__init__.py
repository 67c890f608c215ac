"""Daemons: one process that serves many targets, which come and go.

``image`` is the daemon for the hand-off of ``pyuffd.handoff``, and ``served`` what it knows of its targets.
``supervisor`` starts another daemon when one has crashed. ``control`` is what other processes ask a daemon, and
``status`` shows the answer. ``options`` has the command lines, and ``sockets`` who may connect.
"""
