"""What a person writes: model, cluster, framework and strategy files, and the presets that ship with the package."""
