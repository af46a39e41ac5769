"""The loss keeps every rule of erc-bench's suite; one test per rule."""

from my_policy_loss import my_loss, my_objective

from erc_bench.conformance.testing import conformance_tests

test_my_loss = conformance_tests(
    my_loss,
    # waive={"padding_rows": "divides by all rows, as the paper does"},
)
test_my_objective = conformance_tests(my_objective)
