"""Recipes: one TOML file a variant, and the typed schema that reads them. Never imports torch."""

from fer_deploy.recipes.load import (
    apply_settings,
    list_experiments,
    list_recipes,
    load_recipe,
    parse_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from fer_deploy.recipes.schema import (
    Augmentation,
    Distillation,
    Loss,
    Mixing,
    Network,
    Optimiser,
    Recipe,
    Schedule,
    Stage,
)

__all__ = [
    "Augmentation",
    "Distillation",
    "Loss",
    "Mixing",
    "Network",
    "Optimiser",
    "Recipe",
    "Schedule",
    "Stage",
    "apply_settings",
    "list_experiments",
    "list_recipes",
    "load_recipe",
    "parse_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
]
