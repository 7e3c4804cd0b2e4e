"""Room: process."""
