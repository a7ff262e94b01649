"""The phones' stand-ins are as strict as the apps: each refuses, raises and stays silent where the app does.

What is expected here is what the apps' own sources say. A stand-in that is kinder lets a script pass that the app ends.
"""

import json
import os
import signal
import textwrap

import pytest
import standins
from test_phones import APPS, Handset, stand_in


class Probe:
    """Runs lines of Python in an app; what they print is what comes back."""

    def __init__(self, handset):
        self.handset, self.phone = handset, handset.phone

    def start(self, code, *arguments):
        (self.handset.folder / 'probe.py').write_text(PRELUDE + textwrap.dedent(code))
        return self.handset.start(*arguments, script='probe.py')

    def __call__(self, code):
        script = self.start(code)
        assert script.wait() == 0, script.report()
        return (script.stdout or script.screen).split('\n')[0].strip()

    @property
    def violations(self):
        return [violation.splitlines()[0] for violation in self.phone.violations]


PRELUDE = '''
def outcome(function, *args, **kwargs):
    """The result, or the exception by its name."""
    try:
        return repr(function(*args, **kwargs))
    except BaseException as error:
        return type(error).__name__
'''


STARTED = {}        # the apps by their names: to start one takes longer than to ask it


@pytest.fixture(params=[pytest.param('Pythonista', marks=pytest.mark.quick), 'Pythonista beta'])
def pythonista(request, tmp_path):
    handset = Handset(tmp_path, stand_in(APPS[request.param]), STARTED.get(request.param))
    yield Probe(handset)
    STARTED[request.param], handset.app = handset.app, None
    handset.close()


@pytest.fixture
def new_pythonista(tmp_path):
    handset = Handset(tmp_path, stand_in(standins.pythonista))
    yield Probe(handset)
    handset.close()


@pytest.fixture(scope='module', autouse=True)
def apps_end():
    yield
    for app in STARTED.values():
        app.close()


@pytest.fixture(params=[pytest.param('a-Shell', marks=pytest.mark.quick)])
def ashell(tmp_path):
    handset = Handset(tmp_path, stand_in(standins.a_shell))
    yield Probe(handset)
    handset.close()


# --- Pythonista: the process and its console ----------------------------------------------------------------

def test_a_script_runs_in_a_thread_that_is_not_pythons_main_one(pythonista):
    assert pythonista('''
        import signal, threading
        print(threading.current_thread() is threading.main_thread(), outcome(signal.signal, signal.SIGTERM, print))
    ''') == 'False ValueError'


@pytest.mark.parametrize('stream, has', [
    ('stdin', {'read', 'readline', 'encoding'}),
    ('stdout', {'write', 'writelines', 'flush', 'encoding'}),
    ('stderr', {'write', 'writelines', 'flush', 'encoding'})])
def test_the_console_has_these_methods_and_nothing_else(stream, has, pythonista):
    names = pythonista(f'import sys; print(*[name for name in dir(sys.{stream}) if name[0] != "_"])')
    assert set(names.split()) == has


def test_who_waits_for_a_line_in_the_console_waits_for_ever(pythonista):
    pythonista('import sys; sys.stdin.readline(); print()')
    assert pythonista.violations == ['the script waits for a line in the console']


def test_the_process_lives_on_and_what_a_script_leaves_in_it_is_said(new_pythonista):
    pythonista = new_pythonista
    code = '''
        import logging, os, sys, threading, time
        print(os.getpid())
        if len(sys.argv) > 1:
            threading.Thread(target=time.sleep, args=(3600,), daemon=True, name='left').start()
            logging.getLogger().addHandler(logging.StreamHandler())
            sys.path.append('left')
            kept = os.open(os.devnull, os.O_RDONLY)
    '''
    pythonista.handset.variables['STAND_IN_PATIENCE'] = '0.2'
    first = pythonista.start(code)
    assert first.wait() == 0 and first.left == []
    second = pythonista.start(code, 'leave')
    assert second.wait() == 0 and second.stdout == first.stdout
    left = '\n'.join(second.left)
    assert "threads: [] before, ['left'] now" in left
    assert 'logging handlers' in left and 'path' in left and 'descriptors' in left


def test_no_process_can_be_started_and_to_try_is_a_violation(pythonista):
    assert pythonista('''
        import os, subprocess
        print(outcome(subprocess.run, ['true']), outcome(os.fork), outcome(os.system, 'true'))
    ''') == 'PermissionError PermissionError PermissionError'
    assert len(pythonista.violations) == 3


def test_its_own_libraries_start_no_process_when_they_are_imported(pythonista):
    pythonista('import paramiko, Crypto.PublicKey.RSA; print()')
    assert pythonista.violations == []


def test_the_stop_button_is_an_exception_in_the_scripts_thread(pythonista):
    script = pythonista.start('''
        import time
        try:
            print('running')
            while True:
                time.sleep(0.05)
        except KeyboardInterrupt:
            print('stopped')
    ''')
    script.wait_for_text('running')
    script.interrupt()
    assert script.wait() == 0 and 'stopped' in script.stdout


# --- Pythonista: its modules --------------------------------------------------------------------------------

OFF_MAIN = [
    'import clipboard; clipboard.get()',
    'import clipboard; clipboard.set("text")',
    'import console; console.set_idle_timer_disabled(True)',
    'from objc_util import UIApplication; UIApplication.sharedApplication()',
    'import webbrowser; webbrowser.open("safari-https://a.test")',
    'from objc_util import ObjCClass; ObjCClass("SFSafariViewController").alloc()',
]


@pytest.mark.parametrize('code', OFF_MAIN, ids=lambda code: code.split('; ')[1][:30])
def test_uikit_off_the_main_thread_is_a_violation_even_where_the_script_catches_it(code, pythonista):
    before, call = code.split('; ')
    pythonista(f'{before}\ntry:\n    {call}\nexcept BaseException:\n    pass\nprint()')
    assert pythonista.violations and 'off the main thread' in pythonista.violations[0]


@pytest.mark.parametrize('code', OFF_MAIN, ids=lambda code: code.split('; ')[1][:30])
def test_on_the_main_thread_it_is_none(code, pythonista):
    before, call = code.split('; ')
    pythonista(f'{before}\nfrom objc_util import on_main_thread\non_main_thread(lambda: {call})()\nprint()')
    assert pythonista.violations == []


def test_on_main_thread_prints_an_exception_and_gives_none(pythonista):
    script = pythonista.start('''
        from objc_util import on_main_thread
        print(on_main_thread(lambda: 1 / 0)(), on_main_thread(lambda: 7)(), outcome(on_main_thread, None))
    ''')
    assert script.wait() == 0 and script.stdout == 'None 7 TypeError\n'
    assert 'ZeroDivisionError' in script.stderr


def test_webbrowser_gives_none_whatever_became_of_it(pythonista):
    code = '''
        import webbrowser
        from objc_util import on_main_thread
        print([on_main_thread(webbrowser.open)(url) for url in ('safari-https://a.test', 'https://b.test')],
              outcome(webbrowser.open, None))
    '''
    assert pythonista(code) == '[None, None] Error'
    assert [call['args'] for call in pythonista.phone.called('openURL')] == [['https://a.test']]
    pythonista.phone.set('no-old-open')
    assert pythonista(code) == '[None, None] Error' and len(pythonista.phone.called('openURL')) == 1


@pytest.mark.parametrize('arguments, result', [
    ('"text", 20, ""', 'ValueError'), ('"text", 20, "no such file"', 'ValueError'), ('"text", 20, b"default"', 'TypeError'),
    ('"text", "20"', 'TypeError'), ('', 'ValueError'), ('7', 'TypeError'), ('"text", 20, None, 7', 'TypeError'),
    ('"text", identifier=7', 'TypeError'), ('"text", 20, identifier="one"', "'one'"),
    ('"text", 20, "default", identifier="one"', "'one'"), ('"text", 20, "game:Beep", identifier="one"', "'one'")])
def test_notification_schedule_takes_what_the_app_takes(arguments, result, pythonista):
    assert pythonista(f'import notification; print(outcome(notification.schedule, {arguments}))') == result


def test_a_refused_notification_is_none_and_a_second_one_takes_the_place_of_the_first(pythonista):
    code = '''
        import notification
        print([notification.schedule(text, 60, identifier='one') for text in ('first', 'second')])
    '''
    assert pythonista(code) == "['one', 'one']"
    [planned] = pythonista.phone.planned_notifications
    assert planned['message'] == 'second'
    pythonista.phone.set('no-notifications')
    assert pythonista(code) == '[None, None]'


def test_what_is_planned_is_not_accepted_by_cancel_and_shown_ones_need_another_call(pythonista):
    assert pythonista('''
        import notification
        notification.schedule('text', 60, identifier='one')
        print(outcome(notification.cancel, notification.get_scheduled()[0]), outcome(notification.remove_delivered, None))
    ''') == 'TypeError TypeError'
    pythonista.phone.show_notifications()
    pythonista('import notification; notification.cancel("one"); print()')
    assert len(pythonista.phone.shown_notifications) == 1
    pythonista('import notification; notification.remove_delivered("one"); print()')
    assert pythonista.phone.shown_notifications == []


def test_an_empty_clipboard_is_none_and_only_text_can_be_set(pythonista):
    code = '''
        import clipboard
        from objc_util import on_main_thread
        print(on_main_thread(clipboard.get)(), outcome(clipboard.set, None))
    '''
    assert pythonista(code) == 'None TypeError'
    pythonista.phone.clipboard = 'text'
    assert pythonista(code) == 'text TypeError'
    pythonista.phone.set('no-paste')
    assert pythonista(code) == 'None TypeError'


@pytest.mark.parametrize('code', [
    'import shortcuts; print(outcome(shortcuts.set_output_text, None))',
    'import keychain; print(outcome(keychain.get_password, "service", None))',
    'import keychain; print(outcome(keychain.set_password, "service", "account", None))'])
def test_these_take_text_only(code, pythonista):
    assert pythonista(code) == 'TypeError'


def test_cancel_raises_in_console_and_is_none_in_dialogs(pythonista):
    pythonista.phone.will_answer(('console.alert', standins.CANCEL), ('dialogs.list_dialog', standins.CANCEL))
    assert pythonista('''
        import console, dialogs
        print(outcome(console.alert, 'title'), outcome(dialogs.list_dialog, 'title', ['one']))
    ''') == 'KeyboardInterrupt None'


def test_in_a_shortcuts_extension_nothing_can_be_shown_or_opened(pythonista):
    pythonista.phone.set('shortcut')
    assert pythonista('''
        import console, shortcuts, webbrowser
        from objc_util import UIApplication, on_main_thread
        print(shortcuts.is_running_shortcut(), outcome(console.alert, 'title'), outcome(webbrowser.open, 'safari-https://a.test'),
              on_main_thread(lambda: UIApplication.sharedApplication())())
    ''') == 'True RuntimeError None None'
    assert pythonista.phone.called('openURL') == []


@pytest.mark.parametrize('code, error', [
    ('ObjCClass("NoSuchClass")', 'ValueError'), ('nsurl(7)', 'TypeError'),
    ('UIApplication.sharedApplication().noSuchSelector_(1)', 'AttributeError'),
    ('UIApplication.sharedApplication().openURL_options_completionHandler_(nsurl("https://a.test"))', 'TypeError')])
def test_the_bridge_raises_where_a_class_a_selector_or_an_argument_is_missing(code, error, pythonista):
    assert pythonista(f'''
        from objc_util import *
        from objc_util import UIApplication, ObjCClass, nsurl, on_main_thread
        print(on_main_thread(lambda: outcome(lambda: {code}))())
    ''') == error


def test_a_bridge_that_an_update_took_away_finds_no_class(pythonista):
    pythonista.phone.set('no-bridge')
    assert pythonista('''
        from objc_util import UIApplication, on_main_thread
        print(on_main_thread(lambda: outcome(lambda: UIApplication.sharedApplication()))())
    ''') == 'ValueError'


def test_a_background_task_that_outlives_the_script_is_a_violation(pythonista):
    pythonista('''
        from objc_util import UIApplication, on_main_thread
        print(on_main_thread(lambda: UIApplication.sharedApplication().beginBackgroundTaskWithExpirationHandler_(None))())
    ''')
    assert pythonista.violations == ['a background task was not ended with the script']
    pythonista.phone.set('no-background-time')
    assert pythonista('''
        from objc_util import UIApplication, on_main_thread
        print(on_main_thread(lambda: UIApplication.sharedApplication().beginBackgroundTaskWithExpirationHandler_(None))())
    ''') == '0'


def test_a_text_is_copied_for_this_device_only_with_an_object_for_a_key(pythonista):
    pythonista('''
        from objc_util import ObjCClass, ObjCInstance, ns, on_main_thread

        def copy():
            only_here = ObjCInstance('UIPasteboardOptionLocalOnly')
            ObjCClass('UIPasteboard').generalPasteboard().setItems_options_(ns([{'public.utf8-plain-text': 'text'}]), ns({only_here: True}))
        on_main_thread(copy)()
        print()
        ''')
    assert pythonista.phone.clipboard == 'text'


# --- a-Shell ------------------------------------------------------------------------------------------------

def test_the_streams_are_pipes_that_call_themselves_a_terminal(ashell):
    assert ashell('''
        import os, stat, sys
        numbers = [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]
        print(all(number > 2 for number in numbers), numbers[1] == numbers[2],
              [stat.S_ISFIFO(os.fstat(number).st_mode) for number in numbers],
              [stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)], sys.platform)
    ''') == 'True True [True, True, True] [True, True, True] ios'


def test_what_goes_to_the_apps_own_descriptors_is_a_violation(ashell):
    ashell('import os; os.write(1, b"lost"); print()')
    assert ashell.violations == ['something was written to the descriptors of the app']


def test_a_command_begins_elsewhere_and_the_folder_changes_when_the_person_leaves(ashell):
    assert ashell('''
        import os, subprocess
        before = os.getcwd()
        subprocess.run(['open', 'https://a.test'])
        print(before.endswith('/group'), os.getcwd() == before)
    ''') == 'True False'


@pytest.mark.parametrize('call', ['tcgetattr(descriptor)', 'tcsetattr(descriptor, 0, [])'])
def test_termios_makes_the_terminal_interactive_and_it_stays_so(call, ashell):
    script = ashell.start(f'''
        import os, sys, termios
        descriptor = sys.stdin.fileno()
        termios.{call}
        print('ready')
        print(os.read(descriptor, 100))
    ''')
    script.answer('ready', 'secret')
    assert script.wait() == 0
    assert "b'secret\\r'" in script.screen and 'secret\r\n' not in script.screen     # not echoed
    assert ashell.violations == ['the terminal was left in interactive mode']


def test_ios_stop_interactive_gives_the_usual_terminal_back(ashell):
    script = ashell.start('''
        import ctypes, sys, termios
        termios.tcgetattr(sys.stdin.fileno())
        ctypes.CDLL(None).ios_stopInteractive()
        print('ready')
        print(repr(sys.stdin.readline()))
    ''')
    script.answer('ready', 'shown')
    assert script.wait() == 0 and "'shown\\n'" in script.screen and ashell.violations == []


@pytest.mark.parametrize('end', ['kill()', 'terminate()', 'send_signal(2)'])
def test_a_command_that_is_ended_would_end_the_app(end, ashell):
    ashell(f'''
        import subprocess
        command = subprocess.Popen(['sleep', '60'])
        command.{end}
        command.wait()
        print()
    ''')
    assert ashell.violations and 'ends the whole app' in ashell.violations[0]


def test_a_timeout_of_subprocess_would_end_the_app(ashell):
    assert ashell('''
        import subprocess
        print(outcome(subprocess.run, ['sleep', '60'], timeout=0.05))
    ''') == 'TimeoutExpired'
    assert ashell.violations and 'ends the whole app' in ashell.violations[0]


@pytest.mark.parametrize('disabled', [False, True])
def test_ctrl_c_cancels_the_thread_unless_it_cannot_be(disabled, ashell):
    script = ashell.start(f'''
        import ctypes, time
        ctypes.CDLL(None).pthread_setcancelstate({int(not disabled)}, None)
        try:
            print('running')
            while True:
                time.sleep(0.05)
        except KeyboardInterrupt:
            print('cleared up')
    ''')
    script.wait_for_text('running')
    script.interrupt()
    script.wait()
    assert ('cleared up' in script.screen) is disabled
    assert bool(ashell.phone.called('thread cancelled')) is not disabled


def test_a_window_that_is_closed_ends_the_app_where_nobody_handles_it(ashell):
    script = ashell.start('import time; print("running"); time.sleep(60)')
    script.wait_for_text('running')
    os.kill(script.process.pid, signal.SIGQUIT)
    assert script.wait() == -signal.SIGQUIT


@pytest.mark.parametrize('command, given, status', [
    (['open', 'no address'], None, 255), (['open', 'https://a.test'], None, 0), (['pbpaste'], None, 1),
    (['pbcopy'], b'\xff', 1), (['pbcopy'], b'text', 0)])
def test_the_commands_end_as_the_apps_do(command, given, status, ashell):
    assert ashell(f'''
        import subprocess
        print(subprocess.run({command!r}, input={given!r}, stdout=subprocess.PIPE).returncode)
    ''') == str(status)


@pytest.mark.parametrize('code', [
    'library.objc_getClass(b"UIApplication")',
    'find.argtypes = [ctypes.c_void_p]; find(b"UIApplication")'])
def test_a_pointer_that_ctypes_cuts_in_two_ends_the_app(code, ashell):
    script = ashell.start(f'import ctypes; library = ctypes.CDLL(None); find = library["objc_getClass"]; {code}')
    assert script.wait() == 99 and 'the app has ended' in ashell.violations[0]


def test_no_module_of_the_apps_c_library_is_there_that_the_app_lacks(ashell):
    assert ashell('import ctypes; print(outcome(lambda: ctypes.CDLL(None).no_such_symbol))') == 'AttributeError'


def test_runs_in_one_process_are_counted_by_what_they_leave(ashell):
    ashell.handset.variables |= {'STAND_IN_RUNS': json.dumps([[], ['leave']]), 'STAND_IN_PATIENCE': '0.2'}
    script = ashell.start('''
        import signal, sys
        if sys.argv[1:]:
            signal.signal(signal.SIGTERM, print)
    ''')
    assert script.wait() == 0
    first, second = map(json.loads, (ashell.phone.folder / 'remains.jsonl').read_text().splitlines())
    assert first['left'] == [] and 'signal handlers' in ''.join(second['left'])
