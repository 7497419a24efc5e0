"""What the user sees: jobs (the only threads), layers, the state of the level slider, the docks.

This is the only room that imports napari and Qt. Nothing is imported here, so that a command line
that only names this package stays light.
"""
