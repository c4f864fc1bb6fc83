"""What models are called with: calibration data."""
