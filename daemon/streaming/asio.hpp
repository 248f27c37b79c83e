// Boost.Asio as this room uses it: one thread runs one io_context, and everything but Server's methods and Tokens runs
// there.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/system/error_code.hpp>

namespace userpod::streaming {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;
using Socket = asio::ip::tcp::socket;
using Clock = std::chrono::steady_clock;

// Bytes moved at once. Also what waits for a slow reader.
inline constexpr std::size_t kChunk = 64 << 10;
// Moves of one descriptor in a row; then others have their turn.
inline constexpr int kMovesAtOnce = 8;
// Answers to a client's own frames that may wait for it to read; more, and it is read no further.
inline constexpr std::size_t kMaxAnswers = 16 << 10;
// For a client that takes nothing of the last that its session has said.
inline constexpr std::chrono::seconds kFlushTime{30};

}  // namespace userpod::streaming
