"""What each command does: a function a command, named in `launch.cli`; what it says of itself is in `launch.parser`."""
