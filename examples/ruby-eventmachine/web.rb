# EventMachine's own loop: the port from the environment, logs to stdout, stops on SIGTERM.
require "eventmachine"

$stdout.sync = true

class Web < EM::Connection
  def receive_data(data)
    puts data.lines.first.strip
    body = "hello from #{ENV['PS']} on EventMachine #{EM::VERSION}\n"
    send_data "HTTP/1.1 200 OK\r\nContent-Length: #{body.bytesize}\r\nConnection: close\r\n\r\n#{body}"
    close_connection_after_writing
  end
end

EM.run do
  trap("TERM") { EM.add_timer(0) { puts "stopping"; EM.stop } }
  port = Integer(ENV.fetch("PORT", "8080"))
  EM.start_server("0.0.0.0", port, Web)
  puts "listening on #{port}"
end
