"""WGAN-GP training of the WSConv2d networks, as people have it after the tutorial: plain PyTorch, 32x32, faded in."""

import argparse

import torch
from pggan_fast.benchmarks.peers.wsconv import Discriminator, Generator  # your own model.py

import pggan_fast
from pggan_fast.data import faces

STEPS_UP, ALPHA = 3, 0.5  # three times up from 4x4: 32x32, the last level half in


def gradient_penalty(critic, real, fake):
    beta = torch.rand(len(real), 1, 1, 1)
    mixed = (real * beta + fake.detach() * (1 - beta)).requires_grad_(True)
    scores = critic(mixed, ALPHA, STEPS_UP)
    (gradient,) = torch.autograd.grad(scores, mixed, torch.ones_like(scores), create_graph=True)
    return ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    widths = [options.width] * 4
    gen, critic = Generator(options.width, options.width, widths=widths), Discriminator(options.width, widths=widths)
    print(pggan_fast.fuse(gen))
    print(pggan_fast.fuse(critic))
    opt_gen = torch.optim.Adam(gen.parameters(), lr=1e-3, betas=(0.0, 0.99))
    opt_critic = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.0, 0.99))
    images, losses = faces(32).float() / 127.5 - 1, []
    for step in range(options.steps):
        real = images[torch.randint(len(images), (options.batch,))]
        fake = gen(torch.randn(options.batch, options.width, 1, 1), ALPHA, STEPS_UP)
        score_real, score_fake = critic(real, ALPHA, STEPS_UP), critic(fake.detach(), ALPHA, STEPS_UP)
        loss_critic = score_fake.mean() - score_real.mean() + 1e-3 * (score_real**2).mean()
        loss_critic = loss_critic + 10 * gradient_penalty(critic, real, fake)
        opt_critic.zero_grad()
        loss_critic.backward()
        opt_critic.step()
        loss_gen = -critic(fake, ALPHA, STEPS_UP).mean()
        opt_gen.zero_grad()
        loss_gen.backward()
        opt_gen.step()
        losses.append((loss_critic.item(), loss_gen.item()))
        print(f"step {step}: critic {losses[-1][0]:.5f}, generator {losses[-1][1]:.5f}", flush=True)
    return losses


if __name__ == "__main__":
    main()
