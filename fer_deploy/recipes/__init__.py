"""Recipes: one TOML file a variant, and the typed schema that reads them. Never imports torch."""

from fer_deploy.recipes.load import (
    STUDY_ORDER,
    apply_settings,
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
    Study,
)

__all__ = [
    "STUDY_ORDER",
    "Augmentation",
    "Distillation",
    "Loss",
    "Mixing",
    "Network",
    "Optimiser",
    "Recipe",
    "Schedule",
    "Stage",
    "Study",
    "apply_settings",
    "list_recipes",
    "load_recipe",
    "parse_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
]
