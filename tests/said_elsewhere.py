"""Which story provokes which text of the troubleshooting in scripts/README.md; conftest.py looks whether it did."""

import re

SAID_ELSEWHERE = {      # the words: the name of a test, or one of its variants
    'and its login shell does not say what it has': 'test_a_login_shell_that_says_nothing_is_not_said_to_have_no_codex[]',
    'The ssh-agent at': 'test_an_agent_that_lists_a_key_and_refuses_to_sign_is_passed_over',
    'belongs to a security key': 'test_a_key_that_cannot_be_used_does_not_keep_the_password_from_being_asked[handle of a security key]',
    'is not the one of its pairing link': 'test_the_fingerprints_of_a_pairing_rule_over_an_older_known_key',
    'is vouched for by a certificate': 'test_a_server_known_by_a_certificate_only_is_not_taken_on_trust',
    'iOS may keep … from the network around it': 'test_where_ios_refuses_the_local_network_the_setting_is_named',
    'could be read by others; now only by you (0600).': 'test_a_key_from_the_files_app_is_made_ones_own_used_and_that_is_said',
    'The sign-in page is at': 'test_a_page_that_is_not_of_codexs_issuer_is_not_opened',
    'That page leads nowhere on this device, and was not opened.':
        'test_a_page_that_leads_nowhere_on_this_device_is_shown_and_not_opened_where_nobody_can_say_yes[page]',
    'Nobody is here to agree.': 'test_a_link_does_nothing_where_nobody_can_be_asked_and_says_what_to_do',
    'These arguments are too long to be read in a question.': 'test_a_link_too_long_to_be_read_is_refused_not_cut',
    'The SSH library paramiko is missing.': 'test_the_first_run_goes_no_further_after_a_no',
    'paramiko is missing: pip did not install it.': 'test_a_paramiko_that_cannot_be_installed_is_said_with_what_to_do',
    'paramiko does not start': 'test_a_shells_library_that_does_not_start_is_cured_as_it_says',
    'The SSH library paramiko is not installed.': 'test_a_computer_without_the_library_gets_it_as_it_says',
    'did not answer within': 'test_a_filtered_port_ends_at_the_connecttimeout',
    'did not answer within … s whether it lets … in': 'test_what_a_server_does_not_answer_ends_with_a_clear_line[silent at service]',
    'gives no session': 'test_what_a_server_does_not_answer_ends_with_a_clear_line[refused at session]',
    'did not start the program within … s.': 'test_what_a_server_does_not_answer_ends_with_a_clear_line[unanswered at exec]',
    'It was tried again for … s.': 'test_what_is_never_answered_is_out_of_time[unanswered at exec]',
    'has been restarted since': 'test_a_login_that_is_gone_is_told_with_the_cause_that_is_known[-has_been_restarted-]',
    'Another machine answers at': 'test_a_login_that_is_gone_is_told_with_the_cause_that_is_known[-is_another_node-]',
    '(KillUserProcesses in its logind.conf)': 'test_a_login_that_is_gone_is_told_with_the_cause_that_is_known[-ends_what_sessions_leave-]',
    'is no longer there: it was ended, or its folder was removed.':
        'test_a_login_that_is_gone_is_told_with_the_cause_that_is_known[-was_tidied_up-]',
    'That redirect does not belong to the login that waits.': 'test_a_pasted_redirect_is_as_good_as_the_browser_s',
    'That redirect belongs to no login that waits.': 'test_finish_takes_no_address_with_dots_for_the_login_that_waits',
    'would not have it (…): it belongs to another sign-in.':
        'test_what_is_not_for_the_login_that_was_begun_by_hand_is_refused[<lambda>-belongs to another sign-in]',
    'This sign-in is over': 'test_ctrl_c_while_the_redirect_is_being_delivered',
    'Nobody is signed in there now.': 'test_codex_that_fails_at_once_is_quoted',
    'and may end it on other machines that share it': 'test_a_person_may_sign_in_anew',
    'Already used': 'test_a_second_redirect_of_the_same_sign_in_does_not_end_what_the_first_achieved',
    'State mismatch': 'test_a_wrong_state_is_refused_and_the_login_goes_on',
    'Not signed in yet': 'test_a_bare_success_page_signs_nobody_in_and_the_login_goes_on',
    'Waiting for …': 'test_while_reconnecting_takes_long_the_browser_is_told_so_and_comes_back_by_itself',
    'Nothing listens at': 'test_codex_in_a_container_is_told_that_a_code_works_there',
    'Another program than the one that was started has':
        'test_it_is_said_where_the_redirect_would_go_that_the_program_does_not_wait_for[True-words1]',
    'The program has ended, and left something that listens':
        'test_what_a_program_left_goes_on_being_served_until_it_ends_and_that_is_said_once',
    'has the redirect, and goes on without a word': 'test_a_program_that_has_its_redirect_and_says_nothing_is_no_silence',
    'Not delivered': 'test_an_answer_that_breaks_off_is_told_and_a_reload_brings_the_redirect_again',
}


def said_in(words, text):
    """Whether a text has these words, with anything in place of their …"""
    return re.search('.{0,300}?'.join(map(re.escape, re.split(' ?… ?', words))), text, re.DOTALL)
