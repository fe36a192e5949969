"""The benchmark suite: whole networks and whole training steps, checked before they are timed, side by side in one run."""
