"""Numbers and tokens as readers see them, in the live view and in stills."""

from saekit.views._shared.words import merge_pieces, percent, sig, signed, visible


def test_numbers_are_rounded_to_significant_digits_without_exponents():
    assert [sig(v) for v in (0, 0.012345, 1.5, 12.34, 1235.4)] == ["0", "0.0123", "1.5", "12.3", "1,235"]
    assert [sig(v) for v in (None, float("nan"), float("inf"))] == ["–"] * 3


def test_signed_values_carry_a_sign_in_text_and_percentages_two_digits():
    assert [signed(v) for v in (0.417, -0.417, 0)] == ["+0.42", "−0.42", "+0.00"]
    assert [percent(v) for v in (0, 0.00321, 0.5, 1, float("nan"))] == ["0 %", "0.32 %", "50 %", "100 %", "–"]


def test_whitespace_is_marked_and_controls_are_replaced():
    assert [visible(token) for token in (" a\n\t", "\0\x07", "<img src=x>")] == ["·a↵⇥", "\ufffd\ufffd", "<img·src=x>"]


def test_pieces_of_one_character_are_merged_with_the_strongest_of_their_values():
    merged = merge_pieces(["a", "戦", "", "", "b"], [0, 1, 3, 2, 4])
    assert merged == [("a", 0, 0), ("戦", 3, 1), ("b", 4, 4)]
    assert merge_pieces(["", "b"], [1, 2])[0][0] == "\ufffd", "a window that begins inside a character"
