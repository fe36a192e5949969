"""WGAN-GP training of pro-gan-pth's networks with its own loss, as people have it: plain PyTorch, 32x32, faded in."""

import argparse
import copy

import torch
from pggan_fast.benchmarks.peers.akanimax import Discriminator, Generator  # or pro_gan_pytorch

import pggan_fast
from pggan_fast.data import faces

DEPTH, ALPHA = 5, 0.5  # 2 ** DEPTH pixels a side, the last level half in


class WganGP:
    def __init__(self, dis):
        self.dis = dis

    def penalty(self, real, fake, weight=10.0):
        epsilon = torch.rand(len(real), 1, 1, 1)
        merged = (epsilon * real + (1 - epsilon) * fake).requires_grad_(True)
        op = self.dis(merged, depth=DEPTH, alpha=ALPHA)
        (gradient,) = torch.autograd.grad(op, merged, torch.ones_like(op), create_graph=True, retain_graph=True)
        return weight * ((gradient.view(len(gradient), -1).norm(p=2, dim=1) - 1) ** 2).mean()

    def dis_loss(self, real, fake):
        difference = self.dis(fake, depth=DEPTH, alpha=ALPHA).mean() - self.dis(real, depth=DEPTH, alpha=ALPHA).mean()
        return difference + self.penalty(real, fake)

    def gen_loss(self, fake):
        return -self.dis(fake, depth=DEPTH, alpha=ALPHA).mean()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    widths = [options.width] * 4
    gen = Generator(DEPTH, latent_size=options.width, widths=widths)
    dis = Discriminator(DEPTH, latent_size=options.width, widths=widths)
    print(pggan_fast.fuse(gen))
    print(pggan_fast.fuse(dis))
    shadow, loss = copy.deepcopy(gen), WganGP(dis)
    gen_optim = torch.optim.Adam(gen.parameters(), 0.003, (0.0, 0.99))
    dis_optim = torch.optim.Adam(dis.parameters(), 0.003, (0.0, 0.99))
    images, losses = faces(32).float() / 127.5 - 1, []
    for step in range(options.steps):
        real = images[torch.randint(len(images), (options.batch,))]
        z = torch.randn(options.batch, options.width)
        dis_loss = loss.dis_loss(real, gen(z, depth=DEPTH, alpha=ALPHA).detach())
        dis_optim.zero_grad()
        dis_loss.backward()
        dis_optim.step()
        gen_loss = loss.gen_loss(gen(z, depth=DEPTH, alpha=ALPHA))
        gen_optim.zero_grad()
        gen_loss.backward()
        gen_optim.step()
        with torch.no_grad():
            for name, p in gen.named_parameters():
                shadow.get_parameter(name).lerp_(p, 0.001)
        losses.append((dis_loss.item(), gen_loss.item()))
        print(f"step {step}: dis {losses[-1][0]:.5f}, gen {losses[-1][1]:.5f}", flush=True)
    return losses


if __name__ == "__main__":
    main()
