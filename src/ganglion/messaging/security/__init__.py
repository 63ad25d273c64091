"""Who a site is: keys, certificates and signed claims, made here and checked by the message servers.

`authority` makes and withdraws identities, `identity` is what one site holds. Secrets are only in files that
`ganglion.host.private` writes; nothing here puts one into a message, a log or an error.
"""
