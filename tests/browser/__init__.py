"""Tests in a real Chromium, and the screenshots of the documentation."""
