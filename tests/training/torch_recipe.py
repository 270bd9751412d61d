"""The recipe without its randomness, written with PyTorch alone, with which the trainer's losses are compared.

The optimizer is torch's; schedule, clipping, losses and average follow the authors' script and its libraries."""

import math

import torch
import torch.nn.functional as F


class TorchRecipe:
    """`module(x)` returns the logits of both heads; `names`: {our name: parameter or buffer of the module}."""

    def __init__(self, module, names, recipe, steps):
        self.module, self.recipe, self.steps, self.done = module, recipe, steps, 0
        self.parameters = {n: p for n, p in names.items() if isinstance(p, torch.nn.Parameter)}
        undecayed = [p for n, p in self.parameters.items() if p.ndim == 1 or "bias" in n]  # and attention biases
        decayed = [p for n, p in self.parameters.items() if not (p.ndim == 1 or "bias" in n)]
        self.optimizer = torch.optim.AdamW([{"params": undecayed, "weight_decay": 0.0},
                                            {"params": decayed, "weight_decay": recipe.decay}],
                                           lr=1.0, betas=(recipe.beta1, recipe.beta2), eps=recipe.adam_eps)
        self.names = names
        self.average = {n: a.detach().clone() for n, a in names.items()}

    def rate(self, epoch, step):
        recipe = self.recipe
        peak = recipe.rate * recipe.batch * recipe.accumulation / 512
        t = epoch + step / self.steps if recipe.rate_changes == "step" else max(0, epoch - 1)
        if t < recipe.warmup_epochs:
            return recipe.warmup_rate + (peak - recipe.warmup_rate) / recipe.warmup_epochs * t
        return recipe.final_rate + 0.5 * (peak - recipe.final_rate) * (1 + math.cos(math.pi * t / recipe.epochs))

    def loss(self, x, targets, teacher):
        recipe, (first, second) = self.recipe, self.module(x)
        base = torch.sum(-targets * F.log_softmax(first, -1), -1).mean()
        if teacher is None:
            other = torch.sum(-targets * F.log_softmax(second, -1), -1).mean()
        elif recipe.distillation == "hard":
            other = F.cross_entropy(second, teacher.argmax(1))
        else:
            t = recipe.temperature
            other = F.kl_div(F.log_softmax(second / t, 1), F.log_softmax(teacher / t, 1), reduction="sum",
                             log_target=True) * (t * t) / second.numel()
        return base * (1 - recipe.alpha) + other * recipe.alpha

    def step(self, epoch, number, batches):
        """batches: (images, targets, teacher's logits or None) each; returns the loss."""
        self.optimizer.zero_grad()
        total = 0.0
        for x, targets, teacher in batches:
            loss = self.loss(x, targets, teacher) / len(batches)
            loss.backward()
            total += loss.item()
        for parameter in self.parameters.values() if self.recipe.clip else ():
            rows = (lambda p: p.flatten(1).norm(dim=1).view(-1, *[1] * (p.ndim - 1))) if parameter.ndim > 1 else (
                lambda p: p.norm())
            largest = rows(parameter.detach()).clamp(min=1e-3) * self.recipe.clip
            norm = rows(parameter.grad)
            parameter.grad = torch.where(norm < largest, parameter.grad,
                                         parameter.grad * (largest / norm.clamp(min=1e-6)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(epoch, number)
        self.optimizer.step()
        with torch.no_grad():
            for name, array in self.names.items():
                self.average[name].copy_(self.average[name] * self.recipe.average + (1 - self.recipe.average) * array)
        return total
