"""Keeps the releases of a product on a device: lays them out, switches between them, and puts right what a power loss left.

Below the folder of a product::

    objects/SHA256            every file once, by its content
    releases/VERSION/         a release: links to objects, release.json (what it is), SHA256SUMS
    current -> releases/...   what programs open; replaced by one rename
    state.json                what is committed, what came before, what is being tried
    allowed_signers           whose signatures count here

A release counts when it is committed.  Whatever happens before that, ``recover`` makes ``current`` the committed one again.
"""
