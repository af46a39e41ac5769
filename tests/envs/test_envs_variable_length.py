"""VariableLength: what changes an answer's length, what changes its reward, and by how much."""

import itertools

import numpy as np
import pytest

import erc_envs

END, FILLER = erc_envs.VariableLength.END, erc_envs.VariableLength.FILLER


@pytest.fixture(scope="module")
def lengths():
    return erc_envs.VariableLength()


def right_answer(lengths, prompt):
    """The shortest rewarded answer to a prompt."""
    state, tokens, ended = lengths.initial_state(np.array([prompt])), [], False
    while not ended:
        action = lengths.optimal_action(state)
        state, _, terminated = lengths.step(state, action, np.zeros(1))
        tokens.append(int(action[0]))
        ended = bool(terminated[0])
    return tokens


def play(lengths, prompt, tokens):
    """Reward, tokens used, steps done and flaw of a fixed token sequence."""
    state, total = lengths.initial_state(np.array([prompt])), 0.0
    for token in tokens:
        state, reward, terminated = lengths.step(state, np.array([token]), np.zeros(1))
        total += float(reward[0])
        if terminated[0]:
            break
    _, used, done, flawed, ended = state[0].tolist()
    assert lengths.observe(state)[0, 3] == (2 if ended else flawed)
    return total, used, done, flawed


def test_answers_have_their_prompt_s_number_of_steps(lengths):
    """A right answer is steps[x] work tokens and the end; the steps are spread evenly."""
    for prompt in range(lengths.num_prompts):
        *work, end = right_answer(lengths, prompt)
        assert len(work) == lengths.steps[prompt]
        assert min(work) > FILLER
        assert end == END
    counts = np.bincount(lengths.steps)[2:]
    assert len(counts) == 5
    assert counts.max() - counts.min() <= 1


def test_filler_changes_length_not_reward(lengths):
    """Filler anywhere before the end costs tokens alone, while the answer fits."""
    rng = np.random.default_rng(0)
    for prompt, room in itertools.product(range(lengths.num_prompts), range(8)):
        tokens = right_answer(lengths, prompt)
        fits = len(tokens) + room <= lengths.length
        for _ in range(room):
            tokens.insert(rng.integers(len(tokens)), FILLER)
        reward, used, _, _ = play(lengths, prompt, tokens)
        assert (reward, used) == (float(fits), min(len(tokens), lengths.length))


def test_every_other_answer_earns_nothing(lengths):
    """Early ends, wrong or superfluous work, and no end: reward 0; flaws are seen, and stay."""
    for prompt in range(lengths.num_prompts):
        *work, end = right_answer(lengths, prompt)
        for cut in range(len(work)):
            reward, used, _, flawed = play(lengths, prompt, [*work[:cut], end])
            assert (reward, used, flawed) == (0.0, cut + 1, 0)
            wrong = 2 + (work[cut] - 1) % (lengths.vocab_size - 2)
            tokens = [*work[:cut], wrong, *work[cut + 1 :], end]
            assert play(lengths, prompt, tokens) == (0.0, len(tokens), len(work), 1)
        tokens = [*work, work[-1], end]
        assert play(lengths, prompt, tokens) == (0.0, len(tokens), len(work), 1)
        reward, used, _, _ = play(lengths, prompt, work + [FILLER] * lengths.length)
        assert (reward, used) == (0.0, lengths.length)


def test_prior_is_as_accurate_for_every_prompt(lengths):
    """The work tokens of an answer are all right with probability `accuracy`, given work."""
    for prompt, steps in enumerate(lengths.steps):
        state = np.array([[prompt, done, done, 0, 0] for done in range(steps)])
        prior = lengths.prior(state)
        right = prior[np.arange(steps), lengths.optimal_action(state)]
        assert (right / prior[:, 2:].sum(axis=1)).prod() == pytest.approx(0.35, rel=1e-12)
        np.testing.assert_array_equal(prior[:, FILLER], 0.2)


def test_prior_ignores_flaws_and_positions(lengths):
    """The prior depends on the prompt and the steps done alone: no length bias to begin with."""
    for done in range(3):
        rows = [
            lengths.prior(np.array([[3, position, done, flawed, 0]]))
            for position in (2, 7, 11)
            for flawed in (0, 1)
        ]
        np.testing.assert_array_equal(rows, rows[:1] * 6)


@pytest.mark.parametrize("ramble", [0.01, 0.2, 0.6])
def test_prior_length_by_enumeration(ramble):
    """prior_length is the mean number of tokens over every action sequence of a small instance."""
    small = erc_envs.VariableLength(
        num_prompts=3, vocab_size=4, length=5, min_steps=1, max_steps=3, ramble=ramble
    )

    def length(state):
        expected = 1.0
        for action, chance in enumerate(small.prior(state)[0]):
            after, _, terminated = small.step(state, np.array([action]), np.zeros(1))
            if not terminated[0]:
                expected += chance * length(after)
        return expected

    expected = np.mean([length(small.initial_state(np.array([x]))) for x in range(3)])
    assert small.prior_length == pytest.approx(expected, rel=1e-12)


def test_prior_length_by_simulation(lengths, roll_out, sample_prior):
    """At the default size the simulated length lies within 4 sigma of prior_length."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(lengths.num_prompts, size=40_000)
    _, states = roll_out(lengths, sample_prior(lengths, rng), prompts, rng)
    tokens = states[-1][:, 1]
    assert abs(tokens.mean() - lengths.prior_length) < 4 * tokens.std() / np.sqrt(len(tokens))


def test_prior_length_has_a_closed_form():
    """Where the limit is far, an answer of k steps has (k + 1)/(1 - ramble) tokens, but for slips
    of timing: per step the prior ends early, and after the last works on, with probability 0.01."""
    k, ramble, mistimed = 4, 0.3, 0.01
    far = erc_envs.VariableLength(length=400, min_steps=k, max_steps=k, ramble=ramble)
    onward = 1 - mistimed / (1 - ramble)  # chance that a step's first non-filler token is work
    visits = sum(onward**j for j in range(k)) + onward**k / onward  # the last step may repeat
    assert far.prior_length == pytest.approx(visits / (1 - ramble), rel=1e-12)
    assert far.prior_return == pytest.approx(0.35 * onward ** (k + 1), rel=1e-12)


def test_means_over_responses_push_flawed_answers_to_filler():
    """After a flaw nothing earns, and sum_y pi(y) w(|y|) d log pi(y)/d(filler's logit) vanishes for
    constant w and is negative for w = 1/|y|: with A < 0, a push towards filler."""
    small = erc_envs.VariableLength(
        num_prompts=1, vocab_size=4, length=6, min_steps=2, max_steps=2, ramble=0.3
    )
    pushes = {"constant": 0.0, "per response": 0.0}

    def visit(state, chance, score):
        """Enumerate the answers that go on from here; the score is the sum over tokens so far."""
        for action, probability in enumerate(small.prior(state)[0]):
            after, reward, terminated = small.step(state, np.array([action]), np.zeros(1))
            assert reward[0] == 0
            total = score + (action == FILLER) - small.ramble
            if terminated[0]:
                pushes["constant"] += chance * probability * total
                pushes["per response"] += chance * probability * total / after[0, 1]
            else:
                visit(after, chance * probability, total)

    visit(np.array([[0, 1, 1, 1, 0]]), 1.0, 0.0)
    assert pushes["constant"] == pytest.approx(0, abs=1e-12)
    assert pushes["per response"] < -0.01
