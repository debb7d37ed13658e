"""Checks the C++ attention, forward and backward, against plain PyTorch."""

import torch

import model as two_tasks


def main():
    torch.manual_seed(0)
    tables = two_tasks.TwoTasksModel().rope_tables
    for length in (1, 63, 64, 65, 200, 300):
        shapes = [(2, length, 128), (2, length, 64), (2, length, 64)]
        q, k, v = [(2.0 * torch.randn(shape)).requires_grad_() for shape in shapes]
        levels = torch.randint(0, 3, (2, length), dtype=torch.int8)
        levels[:, 0] = 0
        grad = torch.randn(2, length, 128)
        outputs = []
        for attend in (two_tasks.FlashAttention.apply, two_tasks.reference_attention):
            out = attend(q, k, v, *tables(length), levels)
            outputs.append([out, *torch.autograd.grad(out, (q, k, v), grad)])
        errors = [(a - b).abs().max().item() for a, b in zip(*outputs)]
        print(f"length {length}: largest differences (o, dq, dk, dv) "
              + " ".join(f"{e:.1e}" for e in errors))
        if max(errors) > 1e-4:
            raise SystemExit("the C++ attention is wrong")


if __name__ == "__main__":
    main()
