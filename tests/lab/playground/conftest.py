import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Results depend on the number of threads; tests share few cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
