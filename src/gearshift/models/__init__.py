"""What gearshift knows of outside models, as rows of data."""
