"""Ready role rules, one YAML file a kind of study."""
