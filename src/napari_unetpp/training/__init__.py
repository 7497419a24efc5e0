"""From (partly) labelled stacks to a better model: patches, augmentation, loss, and the loop as a generator of events."""
