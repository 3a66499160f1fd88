"""Attribution of convex heads: logistic regression on frozen features, where removals can be refitted exactly.

    minimise  sum_i m_i log(1 + exp(-s_i <x_i, theta>)) + (lambda / 2) ||theta||^2 ,   s_i = 2 y_i - 1

Sources: influence (Koh & Liang 2017, arXiv 1703.04730), rescaled influence (Rubinstein & Hopkins 2025, arXiv
2506.06656), accuracy of the Newton step (Rubinstein & Hopkins 2025, arXiv 2512.12572).
"""
