"""Speech to text: sound in, pieces cut at pauses, a Whisper engine, and their texts stitched together."""
