"""Side by side with what a user would pick instead; needs the `bench` extra."""
