"""Which backend and precision trains a recipe fastest on this machine: `bench`.

What is imported by the command line needs no backend: `speed`, `stored`, `choice` and
`trials`. A process of its own for each backend and precision (`__main__`) measures.
"""
