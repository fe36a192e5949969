"""The benchmark suite: whole networks and training steps, checked before they are timed, side by side in one run."""
