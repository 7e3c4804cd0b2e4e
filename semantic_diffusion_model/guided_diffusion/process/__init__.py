"""The diffusion process: noise schedules, losses, posteriors, timesteps. Functions of arrays; imports no other room.

Read in this order:

    diffusion         the process itself: q(x_t | x_0), p(x_{t-1} | x_t), the loss (the papers' equations)
    predictions       what a network may predict (noise, x_0, v), from one to the other, and how its error is weighed
    timesteps         which timesteps are trained, and which are visited when fewer steps than all are taken
    random_streams    everything that is drawn, addressed by (seed, what it is for) instead of consumed in some order
"""
