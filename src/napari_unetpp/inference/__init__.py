"""From a stack to predictions on disk: tiles, running a network over them, store, label views."""
