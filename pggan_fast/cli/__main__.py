from pggan_fast.cli import main

main()
