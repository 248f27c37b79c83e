#include "dbus/userpodctl/terminal.hpp"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>

namespace userpod::ctl {
namespace {

constexpr std::string_view kEnter = "\033[?1049h\033[?25l\033[?7l";  // alternate screen, no cursor, no folded lines
constexpr std::string_view kLeave = "\033[?7h\033[?25h\033[?1049l";

// Whatever the terminal takes: when it is gone, nobody reads it.
void writeTerminal(std::string_view text) {
  (void)writeAll(STDOUT_FILENO, text);
}

}  // namespace

bool Terminal::isOne() {
  return ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
}

Terminal::Terminal() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP}) sigaddset(&set, signal);
  ::sigprocmask(SIG_BLOCK, &set, &mask_);
  signals_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  enter();
}

Terminal::~Terminal() {
  leave();
  ::sigprocmask(SIG_SETMASK, &mask_, nullptr);
}

void Terminal::enter() {
  ::tcgetattr(STDIN_FILENO, &before_);
  termios raw = before_;
  raw.c_lflag &= static_cast<tcflag_t>(~(ICANON | ECHO));
  ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
  writeTerminal(kEnter);
  inside_ = true;
}

void Terminal::leave() {
  if (!inside_) return;
  writeTerminal(kLeave);
  ::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  inside_ = false;
}

Terminal::Size Terminal::size() {
  winsize found{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &found) < 0 || found.ws_col == 0 || found.ws_row == 0) return {};
  return {found.ws_col, found.ws_row};
}

void Terminal::draw(const std::vector<std::string>& lines) {
  std::string text = "\033[H";
  for (std::size_t i = 0; i < lines.size(); ++i) text += (i == 0 ? "" : "\r\n") + lines[i] + "\033[K";
  writeTerminal(text + "\033[J");
}

Terminal::Happened Terminal::takeSignal() {
  signalfd_siginfo taken{};
  if (::read(signals_.get(), &taken, sizeof taken) != sizeof taken) return {};
  if (taken.ssi_signo == SIGWINCH) return {Event::Resized};
  if (taken.ssi_signo != SIGTSTP) return {Event::Quit};
  leave();
  ::raise(SIGSTOP);
  enter();
  return {Event::Resumed};
}

Terminal::Happened Terminal::wait(int other, int milliseconds) {
  std::array<pollfd, 3> entries = {pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{signals_.get(), POLLIN, 0},
                                   pollfd{other, POLLIN, 0}};
  if (::poll(entries.data(), entries.size(), milliseconds) <= 0) return {};
  if (entries[1].revents != 0) return takeSignal();
  if (entries[0].revents == 0) return {};
  char key = 0;
  return ::read(STDIN_FILENO, &key, 1) == 1 ? Happened{Event::Key, key} : Happened{Event::Quit};
}

}  // namespace userpod::ctl
