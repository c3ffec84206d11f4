"""Hand-written training loops, one file per framework, that Keras is measured beside.

The networks stand once, in `networks.py`, in terms of operations that each framework
writes as its users do. `make` of each file returns the loops. They are fixed: what is
tuned is kerasdl.
"""
