import pytest

from bevfusion_plugin.launch.command_line import UsageError, at_least_one, tool, tool_parser, user_errors


@pytest.mark.parametrize('error', [ValueError('a bad value'), FileNotFoundError('no file'), ImportError('no package')])
def test_a_users_mistake_is_one_line_and_status_2(error, capsys):
    @tool
    def main(argv=None):
        with user_errors():
            raise error

    assert main([]) == 2
    assert capsys.readouterr().err == f'{error}\n'


def test_other_errors_keep_their_traceback():
    @tool
    def main(argv=None):
        with user_errors():
            raise KeyError('ours to mend')

    with pytest.raises(KeyError, match='ours to mend'):
        main([])


def test_a_count_below_one_is_refused_by_the_name_of_its_flag():
    parser = tool_parser('doc')
    parser.add_argument('--dry-run', type=int)
    at_least_one(parser.parse_args([]), '--dry-run')
    with pytest.raises(UsageError, match='--dry-run must be >= 1, got 0'):
        at_least_one(parser.parse_args(['--dry-run', '0']), '--dry-run')
