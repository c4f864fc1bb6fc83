"""Leave weights, channels or heads out."""
