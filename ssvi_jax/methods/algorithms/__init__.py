"""What methods are put together from: how a phase is trained, and what changes then."""
