"""`python -m napari_unetpp` is the command `napari-unetpp`."""

from napari_unetpp.cli import main

if __name__ == "__main__":
    main()
